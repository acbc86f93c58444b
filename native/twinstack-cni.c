/* The network plugin's executable where there was a C compiler: hands a runtime's request to the node's daemon.
 *
 * It does what twinstack/cni/thin.py does, and starts in a tenth of the time; the protocol is told there. A
 * daemon is looked for before anything is read, so that where none listens the Python executable beside this
 * one ("NAME.py") takes over with stdin untouched and does the work itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char ADDRESS[] = "\0twinstack-cni"; /* abstract: a name of the network namespace */
static const char ROLE[] = "TWINSTACK_PLUGIN";   /* by which of our names we were executed */
static const char *const VARIABLES[] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", ROLE};
enum { BLOCK = 65536, IO_FAILURE = 5, TRY_AGAIN = 11 }; /* codes of the CNI specification */

struct buffer {
    char *data;
    size_t size, room;
};

static _Noreturn void fail(int code, const char *message) {
    printf("{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\"}\n", code, message);
    fflush(stdout);
    _exit(1);
}

/* Room for this many bytes more at the end of what is there. */
static char *room(struct buffer *buffer, size_t more) {
    if (buffer->room - buffer->size < more) {
        size_t wanted = buffer->size + more + buffer->room;
        char *data = realloc(buffer->data, wanted);
        if (!data)
            fail(IO_FAILURE, "the network plugin has no memory");
        buffer->data = data;
        buffer->room = wanted;
    }
    return buffer->data + buffer->size;
}

/* All that a descriptor gives up to its end; false when that cannot be read. */
static bool read_all(int from, struct buffer *into) {
    for (;;) {
        ssize_t got = read(from, room(into, BLOCK), BLOCK);
        if (got > 0)
            into->size += (size_t)got;
        else if (got == 0 || errno != EINTR)
            return got == 0;
    }
}

static bool write_all(int to, const char *data, size_t size) {
    while (size > 0) {
        ssize_t put = write(to, data, size);
        if (put < 0 && errno != EINTR)
            return false;
        if (put > 0) {
            data += put;
            size -= (size_t)put;
        }
    }
    return true;
}

/* A connection to the daemon; -1 when nobody listens, or somebody whom we do not trust: anybody may take an abstract name. */
static int connection_to_daemon(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, ADDRESS, sizeof ADDRESS - 1);
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0)
        return -1;
    struct ucred owner;
    socklen_t size = sizeof owner;
    if (connect(connection, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + sizeof ADDRESS - 1) < 0 ||
        getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &owner, &size) < 0 || (owner.uid != 0 && owner.uid != geteuid())) {
        close(connection);
        return -1;
    }
    return connection;
}

/* The CNI variables, "K=V" separated by zero bytes. */
static void put_variables(struct buffer *into, const char *role) {
    for (size_t i = 0; i < sizeof VARIABLES / sizeof *VARIABLES; i++) {
        const char *name = VARIABLES[i], *value = name == ROLE ? role : getenv(name);
        if (!value)
            continue;
        size_t length = strlen(name) + 1 + strlen(value);
        char *end = room(into, length + 2);
        if (into->size > 0) {
            *end++ = '\0';
            into->size++;
        }
        sprintf(end, "%s=%s", name, value);
        into->size += length;
    }
}

/* The two lengths, and with them the pod's namespace as an open descriptor: the daemon may not see its path. */
static bool send_head(int connection, size_t variables, size_t data) {
    uint32_t head[2] = {htonl((uint32_t)variables), htonl((uint32_t)data)};
    struct iovec part = {.iov_base = head, .iov_len = sizeof head};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } rights;
    const char *path = getenv("CNI_NETNS");
    int netns = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (netns >= 0) { /* gone, or none given: the daemon says what that means */
        memset(&rights, 0, sizeof rights);
        message.msg_control = rights.bytes;
        message.msg_controllen = sizeof rights.bytes;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof netns);
        memcpy(CMSG_DATA(header), &netns, sizeof netns);
    }
    return sendmsg(connection, &message, MSG_NOSIGNAL) == (ssize_t)sizeof head;
}

/* Become the Python executable beside this one. */
static _Noreturn void take_the_long_way(const char *role, char **arguments) {
    char own[PATH_MAX], path[2 * PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    if (length > 0) {
        own[length] = '\0';
        snprintf(path, sizeof path, "%s/%s.py", dirname(own), role);
        arguments[0] = path;
        execv(path, arguments);
    }
    fail(IO_FAILURE, "neither a network daemon nor the plugin's Python executable can be reached");
}

int main(int count, char **arguments) {
    const char *role = count > 0 ? basename(arguments[0]) : "twinstack-cni";
    int connection = connection_to_daemon();
    if (connection < 0)
        take_the_long_way(role, arguments);
    signal(SIGPIPE, SIG_IGN); /* a daemon that ends meanwhile is a failure to be told, not our end */
    struct buffer variables = {0}, request = {0}, answer = {0};
    put_variables(&variables, role);
    if (!read_all(STDIN_FILENO, &request))
        fail(IO_FAILURE, "the network configuration cannot be read from stdin");
    /* what cannot be sent, or not be answered: the daemon has ended; a runtime that is told so calls DEL */
    if (!send_head(connection, variables.size, request.size) || !write_all(connection, variables.data, variables.size) ||
        !write_all(connection, request.data, request.size) || !read_all(connection, &answer) || answer.size == 0)
        fail(TRY_AGAIN, "the network daemon of this node ended before it answered");
    write_all(STDOUT_FILENO, answer.data + 1, answer.size - 1);
    return (unsigned char)answer.data[0];
}
