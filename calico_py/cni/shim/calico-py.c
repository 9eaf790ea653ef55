/*
 * calico-py: the executable that a container runtime calls (CNI specification 1.1.0). It carries the call
 * to the agent of this node and prints the agent's answer; it decides nothing that the agent could decide.
 * docs/cni.md describes the wire format, which calico_py/cni/wire.py speaks on the other side.
 *
 * All memory is static and all waits are bounded. Whatever goes wrong is told as a CNI error on stdout.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_PATH "/run/calico-py/cni.sock"
#define STATE_DIR "/var/lib/calico-py"
#define DEL_DIR STATE_DIR "/del"
#define VERSIONS "[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"
#define NEWEST "1.1.0"
#define LOOK "; look at the calico-node pod of this node"

enum { WIRE_VERSION = 1, HEADER = 16, ENV_MAX = 64 << 10, STDIN_MAX = 4 << 20, ANSWER_MAX = 4 << 20 };
enum { APPEAR_MS = 5000, POLL_MS = 20, ADD_MS = 90000, DEL_MS = 10000, STATUS_MS = 2000 };
enum { CODE_ENV = 4, CODE_IO = 5, CODE_LATER = 11, CODE_UNAVAILABLE = 50 }; /* of the specification */
enum outcome { ANSWERED, ABSENT, LOST }; /* ABSENT: the agent has not begun, the call may be sent again */

extern char **environ;

static unsigned char request[HEADER + ENV_MAX + STDIN_MAX];
static char answer[ANSWER_MAX];
static size_t request_len, env_len, stdin_len;
static char version[16] = NEWEST; /* cniVersion of the configuration, as far as it can be read */
static char reason[160];          /* why the last exchange was not ANSWERED */

static void print_escaped(const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
}

static void __attribute__((noreturn, format(printf, 3, 4))) fail(int code, const char *msg, const char *format, ...)
{
    char details[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(details, sizeof details, format, args);
    va_end(args);
    printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"", version, code);
    print_escaped(msg);
    printf("\",\"details\":\"");
    print_escaped(details);
    printf("\"}\n");
    exit(1);
}

static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

static void put_u32(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> (24 - 8 * i));
}

static int write_all(int fd, const void *data, size_t len)
{
    for (const char *at = data; len;) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Copies CNI_* of the environment, NUL-terminated, behind the header. */
static void pack_environment(void)
{
    for (char **entry = environ; *entry; entry++) {
        size_t len = strlen(*entry) + 1;
        if (strncmp(*entry, "CNI_", 4) != 0)
            continue;
        if (env_len + len > ENV_MAX)
            fail(CODE_ENV, "environment too large", "the CNI_* variables exceed %d bytes", ENV_MAX);
        memcpy(request + HEADER + env_len, *entry, len);
        env_len += len;
    }
}

static void pack_stdin(void)
{
    unsigned char *at = request + HEADER + env_len, extra;

    for (;;) {
        ssize_t n = stdin_len < STDIN_MAX ? read(0, at + stdin_len, STDIN_MAX - stdin_len) : read(0, &extra, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            fail(CODE_IO, "cannot read the network configuration", "read from stdin: %s", strerror(errno));
        if (n == 0)
            return;
        if (stdin_len == STDIN_MAX)
            fail(CODE_IO, "network configuration too large", "stdin exceeds %d bytes", STDIN_MAX);
        stdin_len += (size_t)n;
    }
}

/* Finds the top-level member "cniVersion" for our own answers; the agent parses the configuration properly. */
static void find_version(void)
{
    const char *s = (const char *)request + HEADER + env_len, *end = s + stdin_len;
    int depth = 0, key = 0; /* key: the last string was cniVersion, and so may its value be the next */

    while (s < end) {
        char c = *s++;
        if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c == ',') {
            key = 0;
        } else if (c == '"') {
            const char *start = s;
            while (s < end && *s != '"')
                s += *s == '\\' ? 2 : 1;
            if (s >= end)
                return;
            size_t len = (size_t)(s++ - start);
            if (key && depth == 1 && len && len < sizeof version && strspn(start, "0123456789.") >= len) {
                memcpy(version, start, len);
                version[len] = 0;
                return;
            }
            key = depth == 1 && len == 10 && memcmp(start, "cniVersion", 10) == 0;
        }
    }
}

static enum outcome not_answered(enum outcome outcome, const char *what, const char *why)
{
    snprintf(reason, sizeof reason, "%s: %s", what, why);
    return outcome;
}

static void set_timeout(int fd, int option, long ms)
{
    struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, option, &t, sizeof t);
}

/* Reads exactly len bytes before the deadline; 0, or -1 with errno (ECONNRESET for an end of file). */
static int receive(int fd, void *into, size_t len, long deadline)
{
    for (char *at = into; len;) {
        long left = deadline - now_ms();
        if (left <= 0) {
            errno = ETIMEDOUT;
            return -1;
        }
        set_timeout(fd, SO_RCVTIMEO, left);
        ssize_t n = recv(fd, at, len, 0);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n == 0)
            errno = ECONNRESET;
        if (n <= 0)
            return -1;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Sends the request; the descriptor, if any, goes with its first byte. The agent may answer early and close. */
static void transmit(int fd, int netns, long deadline)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    size_t sent = 0;

    while (sent < request_len && now_ms() < deadline) {
        struct iovec part = {.iov_base = request + sent, .iov_len = request_len - sent};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (sent == 0 && netns >= 0) {
            message.msg_control = control.space;
            message.msg_controllen = sizeof control.space;
            struct cmsghdr *head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(head), &netns, sizeof(int));
        }
        ssize_t n = sendmsg(fd, &message, 0);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return;
        if (n > 0)
            sent += (size_t)n;
    }
}

/* One attempt: connect, send, print the answer and exit; returns only if there was none. */
static enum outcome exchange(int netns, long deadline)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    unsigned char greeting, head[5];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        fail(CODE_IO, "cannot make a socket", "socket: %s", strerror(errno));
    set_timeout(fd, SO_SNDTIMEO, deadline - now_ms() > 1 ? deadline - now_ms() : 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int error = errno;
        close(fd);
        return not_answered(ABSENT, "connect to " SOCKET_PATH, strerror(error));
    }
    transmit(fd, netns, deadline);
    if (receive(fd, &greeting, 1, deadline) != 0) {
        int error = errno;
        close(fd); /* after a timeout the request may still be taken up, after a reset it never will */
        return not_answered(error == ETIMEDOUT ? LOST : ABSENT, "no sign of life on " SOCKET_PATH, strerror(error));
    }
    if (receive(fd, head, sizeof head, deadline) != 0)
        return not_answered(LOST, "the agent took the call up and did not answer", strerror(errno));
    size_t len = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];
    if (len > ANSWER_MAX)
        return not_answered(LOST, "the agent's answer", "too long");
    if (receive(fd, answer, len, deadline) != 0)
        return not_answered(LOST, "the agent's answer ended early", strerror(errno));
    if (write_all(1, answer, len) != 0) {
        fprintf(stderr, "calico-py: cannot write the result: %s\n", strerror(errno));
        exit(1);
    }
    exit(head[0]);
}

static void check_identifiers(const char *container, const char *ifname)
{
    static const char alnum[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    char all[sizeof alnum + 3];

    snprintf(all, sizeof all, "%s_.-", alnum);
    if (!*container || !strspn(container, alnum) || container[strspn(container, all)] || strlen(container) > 180)
        fail(CODE_ENV, "invalid CNI_CONTAINERID", "found '%.200s', expected letters, digits, '_', '.', '-'", container);
    if (!*ifname || strlen(ifname) > 15 || strpbrk(ifname, "/: \t\n"))
        fail(CODE_ENV, "invalid CNI_IFNAME", "found '%.200s', expected 1 to 15 characters of a device's name", ifname);
}

/* Keeps a DEL for the agent's return: the request as it would have been sent, in a file that is whole or absent. */
static void queue_del(void)
{
    char path[512], temporary[512];
    const char *container = env("CNI_CONTAINERID"), *ifname = env("CNI_IFNAME");
    int directory, fd;

    check_identifiers(container, ifname);
    if ((mkdir(STATE_DIR, 0700) != 0 && errno != EEXIST) || (mkdir(DEL_DIR, 0700) != 0 && errno != EEXIST))
        fail(CODE_IO, "cannot keep the DEL for later", "mkdir " DEL_DIR ": %s (%s)", strerror(errno), reason);
    snprintf(path, sizeof path, DEL_DIR "/%s.%s", container, ifname);
    snprintf(temporary, sizeof temporary, DEL_DIR "/.%s.%s.%ld", container, ifname, (long)getpid());
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, request, request_len) != 0 || fsync(fd) != 0 || close(fd) != 0 ||
        rename(temporary, path) != 0) {
        int error = errno;
        unlink(temporary);
        fail(CODE_IO, "cannot keep the DEL for later", "%s: %s (%s)", path, strerror(error), reason);
    }
    directory = open(DEL_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0 || fsync(directory) != 0)
        fail(CODE_IO, "cannot keep the DEL for later", "fsync " DEL_DIR ": %s (%s)", strerror(errno), reason);
    exit(0);
}

int main(void)
{
    const char *command = env("CNI_COMMAND"), *netns_path = env("CNI_NETNS");
    int status = !strcmp(command, "STATUS"), del = !strcmp(command, "DEL"), netns = -1, netns_error = 0;

    signal(SIGPIPE, SIG_IGN);
    if (!*command) {
        fprintf(stderr, "calico-py: a CNI plugin (CNI_COMMAND is not set), protocol versions " VERSIONS "\n");
        return 0;
    }
    pack_environment();
    pack_stdin();
    find_version();
    if (!strcmp(command, "VERSION")) {
        printf("{\"cniVersion\":\"%s\",\"supportedVersions\":" VERSIONS "}\n", version);
        return fflush(stdout) != 0;
    }
    if (*netns_path) { /* never wait for whatever else may be there */
        netns = open(netns_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        netns_error = netns < 0 ? errno : 0;
    }
    request[0] = WIRE_VERSION;
    put_u32(request + 4, (uint32_t)netns_error);
    put_u32(request + 8, (uint32_t)env_len);
    put_u32(request + 12, (uint32_t)stdin_len);
    request_len = HEADER + env_len + stdin_len;

    long start = now_ms(), deadline = start + (status ? STATUS_MS : del ? DEL_MS : ADD_MS);
    enum outcome outcome = exchange(netns, deadline);
    while (outcome == ABSENT && !status && !del && now_ms() - start < APPEAR_MS) {
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
        outcome = exchange(netns, deadline);
    }
    if (del)
        queue_del();
    if (status)
        fail(CODE_UNAVAILABLE, "the calico-py agent of this node is away", "%s" LOOK, reason);
    fail(CODE_LATER, "the calico-py agent of this node is away, try again later", "%s" LOOK, reason);
}
