/* What the kernel alone needs for many small files; `storage.py` compiles it and tells it beside the copies.
 *
 *     floor SOURCE TARGET THREADS create|write|copy|read
 *
 * SOURCE holds directories of files. Each thread takes a directory at a time: makes its twin in TARGET, which must not
 * exist, and all its files: empty (create), with bytes from memory (write), or with those of the source (copy); read
 * only opens, reads and closes the source's. One syncfs at the end. Prints seconds: making, sync, CPU of the process.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 64 << 10, NAMES = 10000, THREADS = 64 };

static const char *source, *target;
static enum { CREATE, WRITE, COPY, READ } what;
static char *names[NAMES];
static int count;
static atomic_int next;

static void must(int holds, const char *action) {
    if (!holds) { perror(action); exit(1); }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void *work(void *unused) {
    char path[4096], *bytes = calloc(1, LARGEST);
    for (int n; (n = next++) < count;) {
        snprintf(path, sizeof path, "%s/%s", source, names[n]);
        int from = open(path, O_RDONLY | O_DIRECTORY), to = -1;
        must(from >= 0, path);
        if (what != READ) {
            snprintf(path, sizeof path, "%s/%s", target, names[n]);
            must(mkdir(path, 0755) == 0, path);
            to = open(path, O_RDONLY | O_DIRECTORY);
        }
        DIR *list = fdopendir(from);
        for (struct dirent *entry; (entry = readdir(list));) {
            if (entry->d_name[0] == '.') continue;
            struct stat found;
            must(fstatat(from, entry->d_name, &found, AT_SYMLINK_NOFOLLOW) == 0, "stat");
            must(found.st_size <= LARGEST, "a file above 64 KiB");
            if (what >= COPY) {
                int file = openat(from, entry->d_name, O_RDONLY);
                must(file >= 0 && read(file, bytes, LARGEST) == found.st_size, "read");
                close(file);
            }
            if (what == READ) continue;
            int file = openat(to, entry->d_name, O_WRONLY | O_CREAT | O_EXCL, 0644);
            must(file >= 0, "create");
            must(what == CREATE || write(file, bytes, found.st_size) == found.st_size, "write");
            close(file);
        }
        closedir(list);
        if (to >= 0) close(to);
    }
    free(bytes);
    return unused;
}

int main(int arguments, char **argument) {
    static const char *whats[] = {"create", "write", "copy", "read"};
    must(arguments == 5, "floor SOURCE TARGET THREADS create|write|copy|read");
    source = argument[1], target = argument[2];
    int threads = atoi(argument[3]);
    must(threads > 0 && threads <= THREADS, "1 to 64 threads");
    while (strcmp(argument[4], whats[what])) must(++what <= READ, "create, write, copy or read");
    double start = now();
    DIR *list = opendir(source);
    must(list != NULL, source);
    for (struct dirent *entry; count < NAMES && (entry = readdir(list));)
        if (entry->d_name[0] != '.') names[count++] = strdup(entry->d_name);
    closedir(list);
    if (what != READ) must(mkdir(target, 0755) == 0, target);
    pthread_t ids[THREADS];
    for (int n = 0; n < threads; n++) must(pthread_create(&ids[n], NULL, work, NULL) == 0, "thread");
    for (int n = 0; n < threads; n++) pthread_join(ids[n], NULL);
    double made = now();
    if (what != READ) must(syncfs(open(target, O_RDONLY)) == 0, "sync");
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("%.6f %.6f %.6f\n", made - start, now() - made, cpu);
    return 0;
}
