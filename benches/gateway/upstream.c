/* A stand-in for an LLM provider: OpenAI-shaped answers at almost no cost, on one thread with one epoll.
 *
 *     upstream PORT            listens on 127.0.0.1
 *
 * The model's name says what comes back (whatever stands before a slash in it is ignored):
 *     s100x10   a stream of 100 chunks, one each 10 ms, the first at once together with the head
 *     others    one JSON answer of about 1 KB, at once
 * GET anything answers with the counters, as JSON.
 *
 * Does not know: TLS, chunked request bodies (411), backpressure (a reader that lets 200 KB pile up is cut off
 * and counted as an error). Good enough for loopback, and for nothing else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 8192
#define MAX_REQUEST (4u << 20)

struct connection {
    int fd;
    char *in;
    size_t filled, room;
    size_t wanted;      /* bytes of the request being read, head and body; 0: the head is not whole yet */
    size_t head;
    long chunks_left;   /* > 0: streaming */
    long long due, every;
    size_t slot;        /* where it stands in `streaming` */
};

static int loop;
static struct connection *streaming[MAX_CONNECTIONS];
static size_t streams;
static long long requests, chunks, errors;

static char answer[4096], stream_head[512], chunk[1024], last_chunk[2048];
static size_t answer_size, stream_head_size, chunk_size, last_chunk_size;

static const char BAD[] = "HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The answers are built once; serving copies bytes and does nothing else. */
static void build_answers(void) {
    static const char sentence[] = "The points are set, the signal is clear and the train goes to its own track. ";
    char text[740] = "", body[2048], event[512];
    while (strlen(text) + sizeof sentence < sizeof text) strcat(text, sentence);
    int n = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"echo\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":512,\"completion_tokens\":128,"
        "\"total_tokens\":640},\"system_fingerprint\":null}", text);
    answer_size = snprintf(answer, sizeof answer,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\ncontent-length: %d\r\n\r\n%s",
        n, body);
    stream_head_size = snprintf(stream_head, sizeof stream_head,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_bench\r\n"
        "transfer-encoding: chunked\r\n\r\n");
    static const char shape[] =
        "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"echo\",\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n";
    n = snprintf(event, sizeof event, shape, "\"content\":\" track\"", "null", "");
    chunk_size = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", n, event);
    n = snprintf(event, sizeof event, shape, "", "\"stop\"",
        ",\"usage\":{\"prompt_tokens\":512,\"completion_tokens\":100,\"total_tokens\":612}");
    last_chunk_size = snprintf(last_chunk, sizeof last_chunk, "%x\r\n%sdata: [DONE]\n\n\r\n0\r\n\r\n", n + 14, event);
}

static void stop_streaming(struct connection *c) {
    if (!c->chunks_left) return;
    c->chunks_left = 0;
    streaming[c->slot] = streaming[--streams];
    streaming[c->slot]->slot = c->slot;
}

static void drop(struct connection *c) {
    stop_streaming(c);
    close(c->fd);
    free(c->in);
    c->in = NULL; /* the sign to whoever called; the two outermost callers free the struct itself */
}

/* All or nothing: what the socket does not take at once is an error, see above. */
static int put(struct connection *c, const char *bytes, size_t size) {
    if (send(c->fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size) return 1;
    errors++;
    drop(c);
    return 0;
}

static void next_chunk(struct connection *c) {
    int last = c->chunks_left == 1;
    chunks++;
    if (!put(c, last ? last_chunk : chunk, last ? last_chunk_size : chunk_size)) return;
    c->due += c->every;
    if (last) stop_streaming(c);
    else c->chunks_left--;
}

static void start_stream(struct connection *c, long count, long every_ms) {
    char first[sizeof stream_head + sizeof last_chunk];
    int only = count == 1;
    memcpy(first, stream_head, stream_head_size);
    memcpy(first + stream_head_size, only ? last_chunk : chunk, only ? last_chunk_size : chunk_size);
    chunks++;
    if (!put(c, first, stream_head_size + (only ? last_chunk_size : chunk_size)) || only) return;
    c->every = every_ms * 1000000LL;
    c->due = now_ns() + c->every;
    c->chunks_left = count - 1;
    c->slot = streams;
    streaming[streams++] = c;
}

static void counters(struct connection *c) {
    char body[128], reply[256];
    int n = snprintf(body, sizeof body, "{\"requests\":%lld,\"chunks\":%lld,\"errors\":%lld}", requests, chunks, errors);
    put(c, reply, snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", n, body));
}

/* The name within `"model": "provider/name"`, cut to what fits; empty if there is none. */
static void read_model(const char *body, size_t size, char *name, size_t room) {
    const char *at = memmem(body, size, "\"model\":", 8), *stop = body + size;
    size_t n = 0;
    for (at = at ? at + 8 : stop; at < stop && (*at == ' ' || *at == '"'); at++);
    for (; at < stop && *at != '"' && n < room - 1; at++) {
        if (*at == '/') n = 0;
        else name[n++] = *at;
    }
    name[n] = 0;
}

static void reply(struct connection *c, const char *body, size_t size) {
    char model[64];
    long count, every;
    requests++;
    read_model(body, size, model, sizeof model);
    if (sscanf(model, "s%ldx%ld", &count, &every) == 2 && count > 0) start_stream(c, count, every);
    else put(c, answer, answer_size);
}

/* Learns head and body size once the head is whole; 0 if it is not to be read on. */
static int measure(struct connection *c) {
    char *end = memmem(c->in, c->filled, "\r\n\r\n", 4);
    if (!end) return c->filled < 65536;
    c->head = end + 4 - c->in;
    *end = 0; /* makes the head a string for strcasestr */
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (!length && c->in[0] == 'P') return 0;
    c->wanted = c->head + (length ? strtoul(length + 17, NULL, 10) : 0);
    return c->wanted <= MAX_REQUEST;
}

static void take_requests(struct connection *c) {
    while (c->in && c->filled && !c->chunks_left) {
        if (!c->wanted && !measure(c)) {
            errors++;
            if (put(c, BAD, sizeof BAD - 1)) drop(c);
            return;
        }
        if (!c->wanted || c->filled < c->wanted) return;
        size_t taken = c->wanted;
        c->wanted = 0;
        if (c->in[0] == 'G') counters(c);
        else reply(c, c->in + c->head, taken - c->head);
        if (!c->in) return;
        memmove(c->in, c->in + taken, c->filled -= taken);
    }
}

static void readable(struct connection *c) {
    size_t need = c->wanted > c->filled ? c->wanted : c->filled + 16384;
    if (c->room < need) c->in = realloc(c->in, c->room = need);
    ssize_t n = recv(c->fd, c->in + c->filled, c->room - c->filled, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { drop(c); return; }
    c->filled += n;
    take_requests(c);
}

static void welcome(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->in = malloc(c->room = 16384);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = c});
    }
}

/* Sends what is due; says how long nothing will be. A plain scan: 500 streams are 500 comparisons. */
static struct timespec send_due(void) {
    long long now = now_ns(), soonest = now + 1000000000LL;
    for (size_t i = streams; i-- > 0;) { /* downwards, because the last one moves into the place of one that ends */
        struct connection *c = streaming[i];
        if (c->due <= now) {
            next_chunk(c);
            if (c->in) take_requests(c);
            if (!c->in) { free(c); continue; }
        }
        if (c->chunks_left && c->due < soonest) soonest = c->due;
    }
    long long wait = soonest > now ? soonest - now : 0;
    return (struct timespec){.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) { perror("upstream"); exit(1); }
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: upstream PORT\n"); return 2; }
    build_answers();
    int listener = listen_on(atoi(argv[1]));
    loop = epoll_create1(0);
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL});
    struct epoll_event events[256];
    for (;;) {
        struct timespec wait = send_due();
        int n = epoll_pwait2(loop, events, 256, &wait, NULL);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) { welcome(listener); continue; }
            readable(c);
            if (!c->in) free(c);
        }
    }
}
