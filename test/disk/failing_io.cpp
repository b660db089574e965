// A disk that begins to fail. Loaded into a process (LD_PRELOAD), it fails calls on files whose path contains
// FAIL_PATH with EIO while the file FAIL_WHEN exists. FAIL_CALL says which: write, sync, or syncdir, which is
// the sync of a folder whose path ends with FAIL_PATH. All other calls go to the system.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static bool fails(const char *call, int fd) {
  const char *path = getenv("FAIL_PATH"), *when = getenv("FAIL_WHEN"), *which = getenv("FAIL_CALL");
  if (path == nullptr || when == nullptr || which == nullptr || strcmp(which, call) != 0) return false;
  if (access(when, F_OK) != 0) return false;
  char link[64], target[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = 0;
  if (strstr(target, path) == nullptr) return false;
  if (strcmp(call, "syncdir") == 0) {
    struct stat stat;
    const bool isEnd = size_t(length) >= strlen(path) && strcmp(target + length - strlen(path), path) == 0;
    if (!isEnd || fstat(fd, &stat) != 0 || !S_ISDIR(stat.st_mode)) return false;
  }
  errno = EIO;
  return true;
}

extern "C" {
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  return fails("write", fd) ? -1 : syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
  return fails("write", fd) ? -1 : syscall(SYS_pwritev, fd, parts, long(count), at, 0L);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

int fdatasync(int fd) { return fails("sync", fd) ? -1 : int(syscall(SYS_fdatasync, fd)); }

int fsync(int fd) { return fails("sync", fd) || fails("syncdir", fd) ? -1 : int(syscall(SYS_fsync, fd)); }
}
