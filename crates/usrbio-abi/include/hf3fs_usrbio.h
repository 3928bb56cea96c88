/* C interface of 3FS USRBIO, as libhf3fs_api_shared.so exports it. x86_64 Linux.
 *
 * Results below zero are negative error numbers unless said otherwise. Rings may be prepared and
 * reaped from any thread. A wait whose daemon died ends with -ENOTCONN.
 */
#ifndef HF3FS_USRBIO_H
#define HF3FS_USRBIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HF3FS_SUPER_MAGIC 0x8f3f5fff

/* Reads may see what is not committed; a hole in a read is -ENODATA. */
#define HF3FS_IOR_ALLOW_READ_UNCOMMITTED 1
#define HF3FS_IOR_FORBID_READ_HOLES 2

typedef void *hf3fs_iov_handle;
typedef void *hf3fs_ior_handle;

/* Shared memory, registered with the daemon: 312 bytes. */
struct hf3fs_iov {
  uint8_t *base;
  hf3fs_iov_handle iovh; /* null if wrapped */
  char id[16];
  char mount_point[256];
  size_t size;
  size_t block_size; /* no transfer may cross a multiple of it; 0: no bound */
  int numa;
};

/* A ring of one direction: 600 bytes. */
struct hf3fs_ior {
  struct hf3fs_iov iov;
  hf3fs_ior_handle iorh;
  char mount_point[256];
  bool for_read;
  int io_depth; /* 0: all at once is a job; n: exactly n; -n: n at most */
  int priority; /* below zero first, above zero last */
  int timeout;  /* milliseconds that a job may wait to fill */
  uint64_t flags;
};

/* A completion: 24 bytes. */
struct hf3fs_cqe {
  int32_t index;
  int32_t reserved;
  int64_t result; /* bytes, or a negative error number */
  const void *userdata;
};

bool hf3fs_is_hf3fs(int fd);
/* Bytes of the mount point of `path` with its zero, or -1; written if `size` allows. */
int hf3fs_extract_mount_point(char *hf3fs_mount_point, int size, const char *path);

int hf3fs_iovcreate(struct hf3fs_iov *iov, const char *hf3fs_mount_point, size_t size,
                    size_t block_size, int numa);
/* Memory that another process registered and has not unlinked. */
int hf3fs_iovopen(struct hf3fs_iov *iov, const uint8_t id[16], const char *hf3fs_mount_point,
                  size_t size, size_t block_size, int numa);
void hf3fs_iovunlink(struct hf3fs_iov *iov);
void hf3fs_iovdestroy(struct hf3fs_iov *iov);
/* Memory that the caller mapped and registered; it stays the caller's. */
int hf3fs_iovwrap(struct hf3fs_iov *iov, void *base, const uint8_t id[16],
                  const char *hf3fs_mount_point, size_t size, size_t block_size, int numa);

size_t hf3fs_ior_size(int entries);
int hf3fs_iorcreate(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                    bool for_read, int io_depth, int numa);
int hf3fs_iorcreate2(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                     bool for_read, int io_depth, int priority, int numa);
int hf3fs_iorcreate3(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                     bool for_read, int io_depth, int priority, int timeout, int numa);
int hf3fs_iorcreate4(struct hf3fs_ior *ior, const char *hf3fs_mount_point, int entries,
                     bool for_read, int io_depth, int timeout, int numa, uint64_t flags);
void hf3fs_iordestroy(struct hf3fs_ior *ior);
int hf3fs_io_entries(const struct hf3fs_ior *ior);

/* Zero or below: usable as `fd` of hf3fs_prep_io, as the number itself is. Above: an errno. */
int hf3fs_reg_fd(int fd, uint64_t flags);
void hf3fs_dereg_fd(int fd);

/* The slot, or an error: EINVAL, EBADF (not registered), EACCES, EAGAIN (full). */
int hf3fs_prep_io(const struct hf3fs_ior *ior, const struct hf3fs_iov *iov, bool read, void *ptr,
                  int fd, size_t off, uint64_t len, const void *userdata);
int hf3fs_submit_ios(const struct hf3fs_ior *ior);
/* How many, once `min_results` are there or `abs_timeout` (CLOCK_REALTIME, null: never) passed. */
int hf3fs_wait_for_ios(const struct hf3fs_ior *ior, struct hf3fs_cqe *cqes, int cqec,
                       int min_results, const struct timespec *abs_timeout);

int hf3fs_hardlink(const char *target, const char *link_name);
int hf3fs_punchhole(int fd, int n, const size_t *start, const size_t *end, size_t flags);

#ifdef __cplusplus
}
#endif
#endif
