// A libcuda.so.1 for machines without a GPU: what Forebay calls of the driver, no more.
//
// Device memory is host memory, filled with 0xa5 when taken and unmapped when given back. Each
// stream is a thread with a queue, so copies and kernels run later and in another order than they
// were asked for, as on a device: who does not wait for the right event reads wrong bytes. Memory
// that was page-locked is read when the copy runs, other memory when it is asked for. Kernels are
// the source that NVRTC compiles, compiled here as C and run thread after thread.
//
//   STUB_CUDA_DELAY_US=N        each piece of work waits up to N microseconds before it runs
//   STUB_CUDA_FAIL=NAME:N       the Nth call of NAME, and each after it, fails with error 700
//   STUB_CUDA_DEVICES=N         devices; 1 by default
// or, from a test in the same process: stub_delay, stub_fail, stub_calls.

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

// ---- kernels -----------------------------------------------------------------------------------
struct place { unsigned x; };
static __thread struct place blockIdx, threadIdx, blockDim, gridDim;
#define KERNEL static void
#define INLINE static inline
#include "../../crates/gpu/src/kernels/kernels.cu"

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 101, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL = 700 };

// ---- faults and counts -------------------------------------------------------------------------
static struct { char name[48]; long calls, fail_from; } table[64];
static int entries;
static unsigned delay_us;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static int entry(const char* name) {
  for (int i = 0; i < entries; i++) if (!strcmp(table[i].name, name)) return i;
  if (entries == 64) abort();
  strncpy(table[entries].name, name, 47);
  return entries++;
}
void stub_fail(const char* name, long nth) {
  pthread_mutex_lock(&lock);
  int i = entry(name);
  table[i].fail_from = nth ? table[i].calls + nth : 0;
  pthread_mutex_unlock(&lock);
}
long stub_calls(const char* name) {
  pthread_mutex_lock(&lock);
  long calls = table[entry(name)].calls;
  pthread_mutex_unlock(&lock);
  return calls;
}
void stub_delay(unsigned us) { delay_us = us; }
static int enter(const char* name) {
  pthread_mutex_lock(&lock);
  int i = entry(name);
  long call = ++table[i].calls, from = table[i].fail_from;
  pthread_mutex_unlock(&lock);
  return from && call >= from ? ILLEGAL : OK;
}
#define CALL do { int refused = enter(__func__); if (refused) return refused; } while (0)

// ---- memory ------------------------------------------------------------------------------------
struct range { char* start; size_t bytes; int device; };
static struct range device_memory[65536], locked[65536];
static int device_ranges, locked_ranges;

static int inside(struct range* ranges, int count, const void* start, size_t bytes) {
  for (int i = 0; i < count; i++)
    if ((char*)start >= ranges[i].start && (char*)start + bytes <= ranges[i].start + ranges[i].bytes) return i;
  return -1;
}

// ---- streams -----------------------------------------------------------------------------------
struct event { long asked, done; double seconds; int references; };
enum kind { COPY, SET, KERNEL_RUN, RECORD, WAIT, END };
struct work {
  enum kind kind;
  void *to, *from, *kept;
  size_t bytes;
  unsigned char value;
  void (*run)(char* arguments);
  char arguments[96];
  unsigned blocks, threads;
  struct event* event;
  long version;
  struct work* next;
};
struct stream { struct work *first, *last; long asked, done; pthread_t thread; };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
static void release(struct event* event) {
  if (--event->references == 0) free(event);
}
static void* work_off(void* argument) {
  struct stream* stream = argument;
  unsigned seed = (unsigned)(uintptr_t)stream;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (!stream->first) pthread_cond_wait(&changed, &lock);
    struct work* work = stream->first;
    if (work->kind == WAIT) while (work->event->done < work->version) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    if (delay_us && work->kind <= KERNEL_RUN) usleep(rand_r(&seed) % delay_us);
    switch (work->kind) {
      case COPY: memcpy(work->to, work->from, work->bytes); break;
      case SET: memset(work->to, work->value, work->bytes); break;
      case KERNEL_RUN:
        gridDim.x = work->blocks; blockDim.x = work->threads;
        for (blockIdx.x = 0; blockIdx.x < work->blocks; blockIdx.x++)
          for (threadIdx.x = 0; threadIdx.x < work->threads; threadIdx.x++) work->run(work->arguments);
        break;
      default: break;
    }
    int end = work->kind == END;
    pthread_mutex_lock(&lock);
    stream->first = work->next;
    if (!stream->first) stream->last = NULL;
    stream->done++;
    if (work->kind == RECORD) {
      if (work->version > work->event->done) work->event->done = work->version;
      work->event->seconds = now();
    }
    if (work->event) release(work->event);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(work->kept);
    free(work);
    if (end) { free(stream); return NULL; }
  }
}
static struct stream* streams[1024];
static struct stream* standard;
static struct stream* make_stream(void) {
  struct stream* stream = calloc(1, sizeof *stream);
  pthread_create(&stream->thread, NULL, work_off, stream);
  pthread_detach(stream->thread);
  for (int i = 0; i < 1024; i++) if (!streams[i]) { streams[i] = stream; break; }
  return stream;
}
// With `lock` held. NULL: the handle is of no stream.
static struct stream* find(void* handle) {
  if ((uintptr_t)handle <= 2) return standard ? standard : (standard = make_stream());
  for (int i = 0; i < 1024; i++) if (streams[i] == handle) return handle;
  return NULL;
}
static int give(void* handle, struct work wish) {
  struct work* work = malloc(sizeof wish);
  *work = wish;
  work->next = NULL;
  pthread_mutex_lock(&lock);
  struct stream* stream = find(handle);
  if (!stream) { pthread_mutex_unlock(&lock); free(work->kept); free(work); return INVALID; }
  if (work->event) {
    work->event->references++;
    work->version = work->kind == RECORD ? ++work->event->asked : work->event->asked;
  }
  if (stream->last) stream->last->next = work; else stream->first = work;
  stream->last = work;
  stream->asked++;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  return OK;
}
// With `lock` held.
static void drain(void) {
  for (int i = 0; i < 1024; i++) {
    struct stream* stream = streams[i];
    if (!stream) continue;
    long until = stream->asked;
    while (streams[i] == stream && stream->done < until) pthread_cond_wait(&changed, &lock);
  }
}

// ---- the driver --------------------------------------------------------------------------------
static int devices = 1;
int cuInit(unsigned flags) {
  CALL;
  const char *delay = getenv("STUB_CUDA_DELAY_US"), *fail = getenv("STUB_CUDA_FAIL"), *count = getenv("STUB_CUDA_DEVICES");
  if (delay) delay_us = (unsigned)atoi(delay);
  if (count) devices = atoi(count);
  if (fail && strchr(fail, ':')) {
    char name[48] = {0};
    strncpy(name, fail, (size_t)(strchr(fail, ':') - fail) < 47 ? (size_t)(strchr(fail, ':') - fail) : 47);
    stub_fail(name, atol(strchr(fail, ':') + 1));
  }
  return OK;
}
int cuDriverGetVersion(int* version) { *version = 12040; return OK; }
int cuDeviceGetCount(int* count) { CALL; *count = devices; return OK; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal < devices ? OK : NO_DEVICE; }
int cuDeviceGetName(char* name, int bytes, int device) { snprintf(name, (size_t)bytes, "Stub of a GPU"); return OK; }
int cuDeviceGetAttribute(int* value, int which, int device) { *value = which == 75 ? 9 : 0; return OK; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)4 << 30; return OK; }
int cuDeviceGetPCIBusId(char* id, int bytes, int device) { snprintf(id, (size_t)bytes, "0000:00:00.0"); return OK; }
int cuDevicePrimaryCtxRetain(void** context, int device) { CALL; *context = (void*)(uintptr_t)(0x1000 + device); return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
static __thread void* current[64];
static __thread int depth;
int cuCtxPushCurrent_v2(void* context) { if (depth == 64) return INVALID; current[depth++] = context; return OK; }
int cuCtxPopCurrent_v2(void** context) { if (!depth) return INVALID; *context = current[--depth]; return OK; }
int cuCtxSynchronize(void) { CALL; pthread_mutex_lock(&lock); drain(); pthread_mutex_unlock(&lock); return OK; }
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { *free_bytes = *total = (size_t)4 << 30; return OK; }
int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
  CALL;
  if (!depth) return 201;
  size_t whole = (bytes + 4095) / 4096 * 4096;
  char* memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || device_ranges == 65536) return NO_MEMORY;
  memset(memory, 0xa5, whole);
  pthread_mutex_lock(&lock);
  device_memory[device_ranges++] = (struct range){memory, bytes, (int)((uintptr_t)current[depth - 1] - 0x1000)};
  pthread_mutex_unlock(&lock);
  *pointer = (uint64_t)(uintptr_t)memory;
  return OK;
}
int cuMemFree_v2(uint64_t pointer) {
  CALL;
  pthread_mutex_lock(&lock);
  drain();
  for (int i = 0; i < device_ranges; i++) {
    if (device_memory[i].start != (char*)(uintptr_t)pointer) continue;
    munmap(device_memory[i].start, (device_memory[i].bytes + 4095) / 4096 * 4096);
    device_memory[i] = device_memory[--device_ranges];
    pthread_mutex_unlock(&lock);
    return OK;
  }
  pthread_mutex_unlock(&lock);
  return INVALID;
}
int cuMemHostRegister_v2(void* start, size_t bytes, unsigned flags) {
  CALL;
  pthread_mutex_lock(&lock);
  locked[locked_ranges++] = (struct range){start, bytes, 0};
  pthread_mutex_unlock(&lock);
  return OK;
}
int cuMemHostUnregister(void* start) {
  CALL;
  pthread_mutex_lock(&lock);
  drain();
  for (int i = 0; i < locked_ranges; i++)
    if (locked[i].start == start) { locked[i] = locked[--locked_ranges]; pthread_mutex_unlock(&lock); return OK; }
  pthread_mutex_unlock(&lock);
  return INVALID;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
  CALL;
  pthread_mutex_lock(&lock);
  int known = inside(device_memory, device_ranges, (void*)(uintptr_t)to, bytes) >= 0;
  int is_locked = inside(locked, locked_ranges, from, bytes) >= 0;
  pthread_mutex_unlock(&lock);
  if (!known) return INVALID;
  struct work work = {.kind = COPY, .to = (void*)(uintptr_t)to, .from = (void*)from, .bytes = bytes};
  if (!is_locked) { work.kept = malloc(bytes + 1); memcpy(work.kept, from, bytes); work.from = work.kept; }
  return give(stream, work);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
  CALL;
  pthread_mutex_lock(&lock);
  int known = inside(device_memory, device_ranges, (void*)(uintptr_t)from, bytes) >= 0;
  pthread_mutex_unlock(&lock);
  return known ? give(stream, (struct work){.kind = COPY, .to = to, .from = (void*)(uintptr_t)from, .bytes = bytes}) : INVALID;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
  CALL;
  return give(stream, (struct work){.kind = COPY, .to = (void*)(uintptr_t)to, .from = (void*)(uintptr_t)from, .bytes = bytes});
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void* stream) {
  CALL;
  return give(stream, (struct work){.kind = SET, .to = (void*)(uintptr_t)to, .value = value, .bytes = bytes});
}
int cuStreamCreate(void** stream, unsigned flags) {
  CALL;
  pthread_mutex_lock(&lock);
  *stream = make_stream();
  pthread_mutex_unlock(&lock);
  return OK;
}
int cuStreamDestroy_v2(void* stream) {
  CALL;
  int given = give(stream, (struct work){.kind = END});
  pthread_mutex_lock(&lock);
  for (int i = 0; i < 1024; i++) if (streams[i] == stream) streams[i] = NULL;
  pthread_mutex_unlock(&lock);
  return given;
}
int cuStreamWaitEvent(void* stream, struct event* event, unsigned flags) { CALL; return give(stream, (struct work){.kind = WAIT, .event = event}); }
int cuEventCreate(struct event** event, unsigned flags) { CALL; *event = calloc(1, sizeof **event); (*event)->references = 1; return OK; }
int cuEventDestroy_v2(struct event* event) {
  CALL;
  pthread_mutex_lock(&lock);
  release(event);
  pthread_mutex_unlock(&lock);
  return OK;
}
int cuEventRecord(struct event* event, void* stream) { CALL; return give(stream, (struct work){.kind = RECORD, .event = event}); }
int cuEventQuery(struct event* event) {
  CALL;
  pthread_mutex_lock(&lock);
  int over = event->done == event->asked;
  pthread_mutex_unlock(&lock);
  return over ? OK : NOT_READY;
}
int cuEventSynchronize(struct event* event) {
  CALL;
  pthread_mutex_lock(&lock);
  long until = event->asked;
  while (event->done < until) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  return OK;
}
int cuEventElapsedTime(float* ms, struct event* from, struct event* to) { *ms = (float)((to->seconds - from->seconds) * 1e3); return OK; }
int cuPointerGetAttribute(void* value, int which, uint64_t pointer) {
  pthread_mutex_lock(&lock);
  int found = inside(device_memory, device_ranges, (void*)(uintptr_t)pointer, 1);
  if (found >= 0) *(int*)value = device_memory[found].device;
  pthread_mutex_unlock(&lock);
  return found >= 0 ? OK : INVALID;
}
int cuGetErrorName(int code, const char** text) { *text = code == ILLEGAL ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == NO_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_STUB"; return OK; }
int cuGetErrorString(int code, const char** text) { *text = code == ILLEGAL ? "an illegal memory access was encountered" : "an error of the stub"; return OK; }

// ---- modules -----------------------------------------------------------------------------------
#define NEXT(type) (*(type*)((a += 8) - 8))
static void run_gather(char* a) {
  const u8* raw = NEXT(const u8*); const struct Piece* pieces = NEXT(const struct Piece*);
  u32 count = NEXT(u32), cells = NEXT(u32), wide = NEXT(u32);
  void *ids = NEXT(void*), *labels = NEXT(void*);
  gather(raw, pieces, count, cells, wide, ids, labels);
}
static void run_describe(char* a) {
  const struct Segment* segments = NEXT(const struct Segment*);
  u32 count = NEXT(u32), cells = NEXT(u32), wide = NEXT(u32);
  void* positions = NEXT(void*); i64* documents = NEXT(i64*); u8* mask = NEXT(u8*); u32* ends = NEXT(u32*);
  describe(segments, count, cells, wide, positions, documents, mask, ends);
}
static void run_chunks(char* a) {
  const u8* data = NEXT(const u8*); u64 bytes = NEXT(u64), counter = NEXT(u64); u32 root = NEXT(u32); u32* values = NEXT(u32*);
  blake3_chunks(data, bytes, counter, root, values);
}
static void run_parents(char* a) {
  const u32* below = NEXT(const u32*); u64 count = NEXT(u64); u32 root = NEXT(u32); u32* above = NEXT(u32*);
  blake3_parents(below, count, root, above);
}
static struct { const char *name, *sizes; void (*run)(char*); } kernels[] = {
  {"gather", "8844488", run_gather},
  {"describe", "84448888", run_describe},
  {"blake3_chunks", "88848", run_chunks},
  {"blake3_parents", "8848", run_parents},
};
int cuModuleLoadData(void** module, const char* image) {
  CALL;
  if (!strstr(image, ".visible .entry")) return 200;
  *module = (void*)0x2000;
  return OK;
}
int cuModuleUnload(void* module) { return OK; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  CALL;
  for (int i = 0; i < 4; i++) if (!strcmp(kernels[i].name, name)) { *function = &kernels[i]; return OK; }
  return NOT_FOUND;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  CALL;
  __typeof__(&kernels[0]) kernel = function;
  struct work work = {.kind = KERNEL_RUN, .run = kernel->run, .blocks = blocks, .threads = threads};
  for (int i = 0; kernel->sizes[i]; i++) memcpy(work.arguments + 8 * i, arguments[i], (size_t)(kernel->sizes[i] - '0'));
  return give(stream, work);
}
