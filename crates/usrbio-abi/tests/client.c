/* A program as users of the library write them. Prints "ok", or what was not as expected. */
#include <errno.h>
#include <fcntl.h>
#include <hf3fs_usrbio.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct hf3fs_iov) == 312, "iov");
_Static_assert(sizeof(struct hf3fs_ior) == 600, "ior");
_Static_assert(sizeof(struct hf3fs_cqe) == 24, "cqe");
_Static_assert(offsetof(struct hf3fs_iov, size) == 288, "iov.size");
_Static_assert(offsetof(struct hf3fs_ior, for_read) == 576, "ior.for_read");
_Static_assert(offsetof(struct hf3fs_ior, flags) == 592, "ior.flags");

#define EXPECT(what)                                            \
  do {                                                          \
    if (!(what)) {                                              \
      fprintf(stderr, "line %d: expected %s\n", __LINE__, #what); \
      exit(1);                                                  \
    }                                                           \
  } while (0)

enum { BLOCK = 4096, BLOCKS = 64 };

static int wait_all(struct hf3fs_ior *ior, struct hf3fs_cqe *cqes, int count) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 20;
  return hf3fs_wait_for_ios(ior, cqes, count, count, &until);
}

int main(int argc, char **argv) {
  EXPECT(argc == 2);
  const char *mount = argv[1];
  char path[512], other[512], found[256];
  snprintf(path, sizeof path, "%s/from-c", mount);
  snprintf(other, sizeof other, "%s/link", mount);
  int length = (int)strlen(mount) + 1;
  EXPECT(hf3fs_extract_mount_point(found, sizeof found, path) == length && !strcmp(found, mount));
  EXPECT(hf3fs_extract_mount_point(found, 2, path) == length);
  EXPECT(hf3fs_extract_mount_point(found, sizeof found, "/proc/self") == -1);
  EXPECT(hf3fs_ior_size(64) == 10384 && hf3fs_ior_size(1024) == 102544);

  struct hf3fs_iov iov = {0}, second = {0};
  struct hf3fs_ior reads = {0}, writes = {0};
  EXPECT(hf3fs_iovcreate(&iov, mount, BLOCK * BLOCKS, 0, -1) == 0);
  EXPECT(iov.size == BLOCK * BLOCKS && iov.base && iov.iovh && !strcmp(iov.mount_point, mount));
  EXPECT(hf3fs_iovcreate(&second, mount, BLOCK, 2 * BLOCK, -1) == -EINVAL);
  EXPECT(hf3fs_iovcreate(&second, "/proc", BLOCK, 0, -1) < 0);
  EXPECT(hf3fs_iorcreate4(&reads, mount, BLOCKS, true, 0, 0, -1, HF3FS_IOR_FORBID_READ_HOLES) == 0);
  EXPECT(hf3fs_iorcreate(&writes, mount, BLOCKS, false, 8, -1) == 0);
  EXPECT(hf3fs_io_entries(&reads) == BLOCKS && reads.flags == 2 && reads.for_read);

  int fd = open(path, O_CREAT | O_RDWR, 0644);
  EXPECT(fd >= 0 && hf3fs_is_hf3fs(fd) && !hf3fs_is_hf3fs(0));
  int copy = hf3fs_reg_fd(fd, 0);
  EXPECT(copy <= 0 && hf3fs_reg_fd(fd, 0) == EINVAL && hf3fs_reg_fd(0, 0) == EBADF);

  /* What a preparation refuses. */
  EXPECT(hf3fs_prep_io(&reads, &iov, false, iov.base, fd, 0, BLOCK, NULL) == -EINVAL);
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base, fd, 0, 0, NULL) == -EINVAL);
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base - 1, fd, 0, BLOCK, NULL) == -EINVAL);
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base + 1, fd, 0, iov.size, NULL) == -EINVAL);
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base, 999, 0, BLOCK, NULL) == -EBADF);
  int only = open(path, O_RDONLY);
  EXPECT(hf3fs_reg_fd(only, 0) <= 0);
  EXPECT(hf3fs_prep_io(&writes, &iov, false, iov.base, only, 0, BLOCK, NULL) == -EACCES);

  /* Write in jobs of eight, read in one; by number, copy and negative copy. */
  for (int n = 0; n < BLOCKS; n++) {
    memset(iov.base + n * BLOCK, n + 1, BLOCK);
    int name = n % 3 == 0 ? fd : n % 3 == 1 ? copy : -copy;
    void *tag = (void *)(uintptr_t)(n + 1000);
    EXPECT(hf3fs_prep_io(&writes, &iov, false, iov.base + n * BLOCK, name, n * BLOCK, BLOCK, tag) >= 0);
  }
  EXPECT(hf3fs_prep_io(&writes, &iov, false, iov.base, fd, 0, BLOCK, NULL) == -EAGAIN);
  EXPECT(hf3fs_submit_ios(&writes) == 0);
  struct hf3fs_cqe cqes[BLOCKS];
  EXPECT(wait_all(&writes, cqes, BLOCKS) == BLOCKS);
  for (int n = 0; n < BLOCKS; n++) EXPECT(cqes[n].result == BLOCK);
  memset(iov.base, 0, iov.size);
  for (int n = 0; n < BLOCKS; n++) {
    void *tag = (void *)(uintptr_t)n;
    EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base + n * BLOCK, only, n * BLOCK, BLOCK, tag) >= 0);
  }
  EXPECT(hf3fs_wait_for_ios(&reads, cqes, BLOCKS, 0, NULL) >= 0);
  EXPECT(hf3fs_submit_ios(&reads) == 0);
  uint64_t seen = 0;
  for (int got = 0; got < BLOCKS;) {
    int now = wait_all(&reads, cqes, 16);
    EXPECT(now > 0);
    for (int n = 0; n < now; n++) {
      EXPECT(cqes[n].result == BLOCK);
      seen |= 1ull << (uintptr_t)cqes[n].userdata;
    }
    got += now;
  }
  EXPECT(seen == UINT64_MAX);
  for (int n = 0; n < BLOCKS * BLOCK; n++) EXPECT(iov.base[n] == n / BLOCK + 1);

  /* Memory by its identity, and by an address. */
  EXPECT(hf3fs_iovopen(&second, (uint8_t *)iov.id, mount, iov.size, 0, -1) == 0);
  EXPECT(second.base != iov.base && second.base[BLOCK] == 2);
  hf3fs_iovdestroy(&second);
  hf3fs_iovunlink(&iov);
  EXPECT(hf3fs_iovopen(&second, (uint8_t *)iov.id, mount, iov.size, 0, -1) == -ENOENT);
  struct hf3fs_iov wrapped = {0};
  EXPECT(hf3fs_iovwrap(&wrapped, iov.base, (uint8_t *)iov.id, mount, iov.size, 0, -1) == 0);
  EXPECT(hf3fs_prep_io(&reads, &wrapped, true, wrapped.base, fd, BLOCK, BLOCK, NULL) >= 0);
  EXPECT(hf3fs_submit_ios(&reads) == 0 && wait_all(&reads, cqes, 1) == 1);
  EXPECT(cqes[0].result == BLOCK && iov.base[0] == 2);
  hf3fs_iovdestroy(&wrapped);
  EXPECT(wrapped.base == iov.base);

  /* A short read at the end; nothing at all comes in time. */
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base, fd, BLOCK * (BLOCKS - 1), 2 * BLOCK, NULL) >= 0);
  EXPECT(hf3fs_submit_ios(&reads) == 0 && wait_all(&reads, cqes, 1) == 1);
  EXPECT(cqes[0].result == BLOCK);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  EXPECT(hf3fs_wait_for_ios(&reads, cqes, 1, 1, &now) == 0);

  EXPECT(hf3fs_hardlink(path, other) == 0 && access(other, R_OK) == 0);
  size_t start = 0, end = 1, chunk = 1 << 20;
  EXPECT(hf3fs_punchhole(fd, 1, &start, &end, 0) == -EINVAL);
  EXPECT(hf3fs_punchhole(fd, 1, &start, &chunk, 0) == 0);

  hf3fs_dereg_fd(fd);
  EXPECT(hf3fs_prep_io(&reads, &iov, true, iov.base, fd, 0, BLOCK, NULL) == -EBADF);
  hf3fs_iordestroy(&reads);
  hf3fs_iordestroy(&writes);
  hf3fs_iovdestroy(&iov);
  EXPECT(iov.base == NULL && reads.iorh == NULL);
  puts("ok");
  return 0;
}
