// A libcufile.so.0 for machines without one: reads by pread into the "device memory" of stub_cuda.c,
// and counts them as STUB_CUFILE says: p2p, posix (the default), or it hangs, crashes, refuses, lies
// (p2p, with wrong bytes).

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct code { int error, driver; };
struct description { int kind, unused; uint64_t file; const void* operations; };
struct entry { int mode, unused; char* device; int64_t file_offset, device_offset; size_t bytes; void* handle; int operation, unused_too; void* cookie; };
struct event { void* cookie; int status, unused; size_t result; };
struct batch { struct event events[256]; unsigned count, told; };

static uint64_t total, p2p, posix, unaligned;
static int is(const char* mode) { const char* found = getenv("STUB_CUFILE"); return found && !strcmp(found, mode); }

struct code cuFileGetVersion(int* version) { *version = 1140; return (struct code){0, 0}; }
struct code cuFileDriverOpen(void) {
  if (is("hang")) for (volatile int spin = 0;; spin++) {}
  if (is("crash")) abort();
  return (struct code){is("refuse") ? 5033 : 0, 0};
}
struct code cuFileHandleRegister(void** handle, struct description* description) {
  *handle = (void*)(uintptr_t)(description->file + 1);
  return (struct code){0, 0};
}
void cuFileHandleDeregister(void* handle) {}
struct code cuFileBufRegister(const void* start, size_t bytes, int flags) { return (struct code){0, 0}; }
struct code cuFileBufDeregister(const void* start) { return (struct code){0, 0}; }
ssize_t cuFileRead(void* handle, char* device, size_t bytes, int64_t file_offset, int64_t device_offset) {
  // A part at a time now and then, as the library may.
  size_t now = bytes > (3u << 20) ? bytes / 2 / 4096 * 4096 : bytes;
  int file = (int)(uintptr_t)handle - 1;
  char* bounce;
  if (posix_memalign((void**)&bounce, 4096, now + 8192)) return -1;
  int64_t from = file_offset / 4096 * 4096;
  size_t skip = (size_t)(file_offset - from), whole = (skip + now + 4095) / 4096 * 4096;
  ssize_t moved = pread(file, bounce, whole, from);
  if (moved >= (ssize_t)skip) {
    moved = moved - (ssize_t)skip < (ssize_t)now ? moved - (ssize_t)skip : (ssize_t)now;
    memcpy(device + device_offset, bounce + skip, (size_t)moved);
    if (is("lies") && moved > 0) device[device_offset] ^= 1;
  }
  free(bounce);
  __sync_fetch_and_add(&total, 1);
  __sync_fetch_and_add(is("p2p") || is("lies") ? &p2p : &posix, 1);
  if (file_offset % 4096 || bytes % 4096) __sync_fetch_and_add(&unaligned, 1);
  return moved;
}
struct code cuFileSetStatsLevel(int level) { return (struct code){0, 0}; }
struct code cuFileStatsStart(void) { return (struct code){0, 0}; }
struct code cuFileGetStatsL3(uint64_t* words) {
  uint64_t* counts = words + 1032 / 8;
  counts[6] = total; counts[7] = p2p; counts[8] = 0; counts[9] = posix; counts[10] = unaligned;
  return (struct code){0, 0};
}
struct code cuFileBatchIOSetUp(struct batch** batch, unsigned count) { *batch = calloc(1, sizeof **batch); return (struct code){count > 256 ? 5022 : 0, 0}; }
struct code cuFileBatchIOSubmit(struct batch* batch, unsigned count, struct entry* entries, unsigned flags) {
  for (unsigned i = 0; i < count; i++) {
    ssize_t moved = cuFileRead(entries[i].handle, entries[i].device, entries[i].bytes, entries[i].file_offset, entries[i].device_offset);
    // The last comes first.
    batch->events[count - 1 - i] = (struct event){entries[i].cookie, moved < 0 ? 0x40 : 0x10, 0, moved < 0 ? 0 : (size_t)moved};
  }
  batch->count = count;
  return (struct code){0, 0};
}
struct code cuFileBatchIOGetStatus(struct batch* batch, unsigned least, unsigned* count, struct event* events, const void* timeout) {
  // A few at a time.
  unsigned left = batch->count - batch->told, now = left < 3 ? left : 3;
  if (now > *count) now = *count;
  memcpy(events, batch->events + batch->told, now * sizeof *events);
  batch->told += now;
  *count = now;
  return (struct code){0, 0};
}
void cuFileBatchIODestroy(struct batch* batch) { free(batch); }
