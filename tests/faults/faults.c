/* Faults at the N-th operation that changes files below one folder, for a process that preloads this.

   fault_arm(folder, operations, number, action): the number-th call of the named operations (words such
   as "write rename", or "any") under the folder does the action instead: a positive errno fails it, a
   negative number sends that signal to the process first. number 0 only counts. fault_total() tells how
   many there were before the last arming. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static char operations[256];
static long number, count, total;
static int action;

void fault_arm(const char *under, const char *which, long at, int what) {
    snprintf(folder, sizeof folder, "%s", under);
    snprintf(operations, sizeof operations, " %s ", which);
    total = count;
    count = 0;
    number = at;
    action = what;
}

long fault_total(void) { return total; }

/* Whether the operation on a path fails now; errno says how. */
static int fails(const char *operation, const char *path) {
    char word[32];
    if (!*folder || strncmp(path, folder, strlen(folder)) != 0) return 0;
    snprintf(word, sizeof word, " %s ", operation);
    if (strcmp(operations, " any ") != 0 && !strstr(operations, word)) return 0;
    if (++count != number) return 0;
    if (action < 0) {
        raise(-action);
        return 0;
    }
    errno = action;
    return 1;
}

static int fails_at(const char *operation, int descriptor) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    int kept = errno;
    if (!*folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) {
        errno = kept;
        return 0;
    }
    path[length] = 0;
    errno = kept;
    return fails(operation, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int descriptor, const void *bytes, size_t size) {
    REAL(write);
    return fails_at("write", descriptor) ? -1 : real(descriptor, bytes, size);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t at) {
    REAL(pwrite64);
    return fails_at("write", descriptor) ? -1 : real(descriptor, bytes, size, at);
}

ssize_t writev(int descriptor, const struct iovec *parts, int size) {
    REAL(writev);
    return fails_at("write", descriptor) ? -1 : real(descriptor, parts, size);
}

size_t fwrite(const void *bytes, size_t size, size_t times, FILE *file) {
    REAL(fwrite);
    return fails_at("write", fileno(file)) ? 0 : real(bytes, size, times, file);
}

int fsync(int descriptor) {
    REAL(fsync);
    return fails_at("fsync", descriptor) ? -1 : real(descriptor);
}

int posix_fallocate64(int descriptor, off64_t start, off64_t size) {
    REAL(posix_fallocate64);
    /* It returns the error. */
    return fails_at("write", descriptor) ? errno : real(descriptor, start, size);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails("rename", from) ? -1 : real(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    REAL(renameat2);
    return fails("rename", from) ? -1 : real(from_folder, from, to_folder, to, flags);
}

int unlink(const char *path) {
    REAL(unlink);
    return fails("unlink", path) ? -1 : real(path);
}

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    return fails_at("unlink", at) ? -1 : real(at, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int open64(const char *path, int flags, ...) {
    /* Only creation changes files. */
    static int (*real)(const char *, int, ...);
    mode_t mode = 0;
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    if (flags & 0100) {
        __builtin_va_list more;
        __builtin_va_start(more, flags);
        mode = (mode_t)__builtin_va_arg(more, int);
        __builtin_va_end(more);
        if (fails("create", path)) return -1;
    }
    return real(path, flags, mode);
}
