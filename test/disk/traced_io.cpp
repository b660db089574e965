// Writes down what a process does to its disk. Loaded into it (LD_PRELOAD), it appends a line to the file
// TRACE_FILE for each change below the folder TRACE_DIR, and for each sync there:
//
//   write, sync                     the content of a file; a write to a file opened with O_DSYNC is no line
//   create, mkdir, unlink, rmdir    a name; rename has two
//   syncdir                         a folder
//   mark                            the process asked whether it may access MARK:text
//
// A change is written down before anyone can wait for it to end, and a sync after it has succeeded.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *const kMark = "MARK:";

static bool isTraced(const char *path) {
  const char *dir = getenv("TRACE_DIR");
  return dir != nullptr && strncmp(path, dir, strlen(dir)) == 0;
}

static void say(const char *what, const char *path, const char *to = "") {
  const char *trace = getenv("TRACE_FILE");
  if (trace == nullptr) return;
  char line[2 * PATH_MAX + 16];
  const int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, path, to);
  const int fd = int(syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (fd < 0) abort();
  if (syscall(SYS_write, fd, line, size_t(length)) != length) abort();
  syscall(SYS_close, fd);
}

// The path of an open file, if it is one to write down.
static bool pathOf(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 0) return false;
  path[length] = 0;
  return isTraced(path);
}

static void wrote(int fd) {
  char path[PATH_MAX];
  if (!pathOf(fd, path)) return;
  const int flags = fcntl(fd, F_GETFL);
  if ((flags & O_DSYNC) == 0) say("write", path);
}

static int synced(int fd, int result) {
  const int code = errno;
  char path[PATH_MAX];
  struct stat stat;
  if (result == 0 && pathOf(fd, path) && fstat(fd, &stat) == 0) say(S_ISDIR(stat.st_mode) ? "syncdir" : "sync", path);
  errno = code;
  return result;
}

static int opened(int at, const char *path, int flags, mode_t mode) {
  const bool makes = (flags & O_CREAT) != 0 && isTraced(path) && syscall(SYS_faccessat, at, path, F_OK) != 0;
  const int fd = int(syscall(SYS_openat, at, path, flags, mode));
  if (fd >= 0 && makes) say("create", path);
  if (fd >= 0 && (flags & O_TRUNC) != 0) wrote(fd);
  return fd;
}

static int named(int result, const char *what, const char *path, const char *to = "") {
  const int code = errno;
  if (result == 0 && (isTraced(path) || isTraced(to))) say(what, path, to);
  errno = code;
  return result;
}

extern "C" {
int openat(int at, const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return opened(at, path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

ssize_t write(int fd, const void *bytes, size_t length) {
  wrote(fd);
  return syscall(SYS_write, fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  wrote(fd);
  return syscall(SYS_pwrite64, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
  wrote(fd);
  return syscall(SYS_pwritev, fd, parts, long(count), at, 0L);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
  wrote(out);
  return syscall(SYS_copy_file_range, in, from, out, to, length, flags);
}

ssize_t sendfile64(int out, int in, off64_t *from, size_t length) {
  wrote(out);
  return syscall(SYS_sendfile, out, in, from, length);
}

int ftruncate64(int fd, off64_t length) {
  wrote(fd);
  return int(syscall(SYS_ftruncate, fd, length));
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fdatasync(int fd) { return synced(fd, int(syscall(SYS_fdatasync, fd))); }

int fsync(int fd) { return synced(fd, int(syscall(SYS_fsync, fd))); }

int rename(const char *from, const char *to) {
  return named(int(syscall(SYS_rename, from, to)), "rename", from, to);
}

int unlink(const char *path) { return named(int(syscall(SYS_unlink, path)), "unlink", path); }

int rmdir(const char *path) { return named(int(syscall(SYS_rmdir, path)), "rmdir", path); }

int mkdir(const char *path, mode_t mode) { return named(int(syscall(SYS_mkdir, path, mode)), "mkdir", path); }

int access(const char *path, int mode) {
  const char *mark = strstr(path, kMark);
  if (mark != nullptr) say("mark", mark + strlen(kMark));
  return int(syscall(SYS_access, path, mode));
}
}
