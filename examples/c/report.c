/* A C program that appends its records itself: cc -o report report.c && theorbo run -- ./report
 *
 * One record is RS, JSON, LF, appended by one write to the rank's file in the spool. Two bytes of the spool are mapped:
 * "pressure" (anything but 0: leave out log lines and metrics, there is no room) and "cancelled" (1: somebody has asked
 * for an end). Looking at them costs nothing. Without a bus it prints.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int records = -1;
static volatile const char *pressure = "0", *cancelled = "0";

static const char *map_byte(const char *spool, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", spool, name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return "0";
    void *byte = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    return byte == MAP_FAILED ? "0" : byte;
}

static void open_spool(void)
{
    const char *spool = getenv("THEORBO_SPOOL"), *rank = getenv("THEORBO_RANK");
    char path[4096];
    if (spool == NULL)
        return;
    snprintf(path, sizeof path, "%s/rank-%s.rec", spool, rank ? rank : "0");
    records = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    pressure = map_byte(spool, "pressure");
    cancelled = map_byte(spool, "cancelled");
}

/* `format` makes the fields beside kind, time and pid; texts in it must be JSON already. */
static void emit(const char *kind, const char *format, ...)
{
    char record[65536]; /* larger ones are not for the spool: send a file */
    struct timespec now;
    va_list values;
    clock_gettime(CLOCK_REALTIME, &now);
    int n = snprintf(record, sizeof record, "\x1e{\"kind\":\"%s\",\"time\":%lld.%06ld,\"pid\":%ld,", kind,
                     (long long)now.tv_sec, now.tv_nsec / 1000, (long)getpid());
    va_start(values, format);
    n += vsnprintf(record + n, sizeof record - n, format, values);
    va_end(values);
    if (n >= (int)sizeof record - 2)
        return;
    memcpy(record + n, "}\n", 2);
    n += 2;
    if (records < 0)
        fwrite(record + 1, 1, n - 1, stderr);
    else if (*pressure == '0' || strcmp(kind, "result") == 0)
        if (write(records, record, n) != n) /* one write: records of others cannot come between */
            perror("cannot report");
}

int main(void)
{
    const int cycles = 20;
    const struct timespec pause = {0, 10000000};
    double x = 1.0;
    int done = 0;
    signal(SIGTERM, SIG_IGN); /* we look at the byte instead, and end by ourselves */
    open_spool();
    emit("log", "\"level\":\"INFO\",\"text\":\"the square root of 2 in %d cycles\"", cycles);
    while (done < cycles && *cancelled == '0') {
        x = (x + 2 / x) / 2;
        done++;
        emit("progress", "\"done\":%d,\"total\":%d,\"unit\":\"cycles\"", done, cycles);
        emit("metric", "\"name\":\"error\",\"value\":%.17g,\"step\":%d", x * x - 2, done);
        nanosleep(&pause, NULL);
    }
    emit("result",
         "\"summary\":\"%d cycles\",\"parts\":[{\"mime\":\"application/json\",\"value\":{\"x\":%.17g,\"cycles\":%d}}]",
         done, x, done);
    return done == cycles ? 0 : 3; /* 3: ended in good order, because it was cancelled */
}
