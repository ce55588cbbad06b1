/* A disk that is full, or broken, from the n-th write on: preloaded into a process, this library
   stands between it and the C library. Only what lies below the given directory is counted and
   fails, so that the process can still report what it saw.

   A real full disk fails wherever it happens to be full. Here each point can be tried. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static long calls, first_failure, last_failure;
static int failure, halves;

/* From call number `first` to `last` (counted from 1), calls below `directory` fail with `error`.
   If `half`, the first of them writes half of what it was given, if it is a write. */
void disk_fails(const char *directory, long first, long last, int error, int half)
{
    calls = 0;
    first_failure = first;
    last_failure = last;
    failure = error;
    halves = half;
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
}

/* How many calls there were since. */
long disk_calls(void)
{
    return calls;
}

static int is_below(const char *path)
{
    return root_length && strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == 0);
}

static int is_below_fd(int fd)
{
    char link[64], path[PATH_MAX];
    if (!root_length)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static int is_below_at(int directory, const char *path)
{
    return path[0] == '/' || directory == AT_FDCWD ? is_below(path) : is_below_fd(directory);
}

/* Counts a call; whether it has to fail. */
static int fails(void)
{
    long number = ++calls;
    if (number < first_failure || number > last_failure)
        return 0;
    errno = failure;
    return 1;
}

/* Whether the failing call is the one that is to write half. */
static int writes_half(size_t size)
{
    return halves && calls == first_failure && size > 1;
}

#define REAL(type, name, ...)                                        \
    static type (*real)(__VA_ARGS__);                                \
    if (!real)                                                       \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name);

#define WRITE(name)                                                  \
    ssize_t name(int fd, const void *data, size_t size)              \
    {                                                                \
        REAL(ssize_t, #name, int, const void *, size_t)              \
        if (is_below_fd(fd) && fails())                              \
            return writes_half(size) ? real(fd, data, size / 2) : -1;\
        return real(fd, data, size);                                 \
    }

#define PWRITE(name, offset_type)                                    \
    ssize_t name(int fd, const void *data, size_t size, offset_type at) \
    {                                                                \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type) \
        if (is_below_fd(fd) && fails())                              \
            return writes_half(size) ? real(fd, data, size / 2, at) : -1; \
        return real(fd, data, size, at);                             \
    }

#define WITH_FD(type, name, bad, parameters, ...)                    \
    type name parameters                                             \
    {                                                                \
        REAL(type, #name, TYPES_OF parameters)                       \
        return is_below_fd(fd) && fails() ? bad : real(__VA_ARGS__); \
    }
#define TYPES_OF(...) __VA_ARGS__

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...)                       \
    {                                                                \
        REAL(int, #name, const char *, int, ...)                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0;          \
        va_end(rest);                                                \
        if (flags & O_CREAT && is_below(path) && is_missing(AT_FDCWD, path) && fails()) \
            return -1;                                               \
        return real(path, flags, mode);                              \
    }

#define OPENAT(name)                                                 \
    int name(int directory, const char *path, int flags, ...)        \
    {                                                                \
        REAL(int, #name, int, const char *, int, ...)                \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0;          \
        va_end(rest);                                                \
        if (flags & O_CREAT && is_below_at(directory, path) &&       \
            is_missing(directory, path) && fails())                  \
            return -1;                                               \
        return real(directory, path, flags, mode);                   \
    }

/* A file that is there can be opened on a full disk. */
static int is_missing(int directory, const char *path)
{
    int before = errno;
    int missing = faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    errno = before;
    return missing;
}

WRITE(write)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
WITH_FD(ssize_t, writev, -1, (int fd, const struct iovec *parts, int count), fd, parts, count)
WITH_FD(ssize_t, pwritev, -1, (int fd, const struct iovec *parts, int count, off_t at),
        fd, parts, count, at)
WITH_FD(ssize_t, pwritev64, -1, (int fd, const struct iovec *parts, int count, off64_t at),
        fd, parts, count, at)
WITH_FD(int, ftruncate, -1, (int fd, off_t length), fd, length)
WITH_FD(int, ftruncate64, -1, (int fd, off64_t length), fd, length)
WITH_FD(int, fallocate, -1, (int fd, int mode, off_t at, off_t length), fd, mode, at, length)
WITH_FD(int, fallocate64, -1, (int fd, int mode, off64_t at, off64_t length),
        fd, mode, at, length)
WITH_FD(int, posix_fallocate, failure, (int fd, off_t at, off_t length), fd, at, length)
WITH_FD(int, posix_fallocate64, failure, (int fd, off64_t at, off64_t length), fd, at, length)
/* Where a disk is full or broken behind a cache, it is here that one is told. */
WITH_FD(int, fsync, -1, (int fd), fd)
WITH_FD(int, fdatasync, -1, (int fd), fd)
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int mkdir(const char *path, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t)
    return is_below(path) && is_missing(AT_FDCWD, path) && fails() ? -1 : real(path, mode);
}

int mkdirat(int directory, const char *path, mode_t mode)
{
    REAL(int, "mkdirat", int, const char *, mode_t)
    return is_below_at(directory, path) && is_missing(directory, path) && fails()
               ? -1
               : real(directory, path, mode);
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *)
    return is_below(to) && fails() ? -1 : real(from, to);
}

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    REAL(int, "renameat", int, const char *, int, const char *)
    return is_below_at(to_directory, to) && fails() ? -1
                                                    : real(from_directory, from, to_directory, to);
}

int link(const char *from, const char *to)
{
    REAL(int, "link", const char *, const char *)
    return is_below(to) && fails() ? -1 : real(from, to);
}
