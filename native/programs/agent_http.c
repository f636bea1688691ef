/* agent_http.c - HTTP/1.1 as far as one small request and its answer need it. */
#include "agent_http.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int wait_for(int fd, short events, long long deadline_ms) {
  for (;;) {
    long long left = deadline_ms - now_ms();
    if (left <= 0) return 0;
    struct pollfd wanted = {fd, events, 0};
    int ready = poll(&wanted, 1, (int)left);
    if (ready > 0) return 1;
    if (ready < 0 && errno != EINTR) return 0;
  }
}

static bool fail(struct answer *answer, const char *problem) {
  answer->status = 0;
  snprintf(answer->problem, sizeof answer->problem, "%s", problem);
  return false;
}

/* A connection that does not block; -1, with the problem. */
static int connect_to(const char *path, long long deadline_ms, struct answer *answer) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) return fail(answer, "the socket's path is too long"), -1;
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(answer, strerror(errno)), -1;
  for (;;) { /* blocks while the agent's queue is full, which poll() could not wait for */
    long long left = deadline_ms - now_ms();
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = left % 1000 * 1000};
    if (left <= 0) break;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
        connect(fd, (struct sockaddr *)&address, sizeof address) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
      return fd;
    if (errno == EINTR || errno == EAGAIN) continue;
    fail(answer, strerror(errno));
    close(fd);
    return -1;
  }
  fail(answer, "it does not answer in time");
  close(fd);
  return -1;
}

static bool send_all(int fd, const char *data, size_t length, long long deadline_ms, struct answer *answer) {
  while (length) {
    ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
    if (sent >= 0) {
      data += sent;
      length -= (size_t)sent;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return true; /* it may have answered before it stopped reading */
    } else if (errno != EINTR && errno != EAGAIN) {
      return fail(answer, strerror(errno));
    } else if (errno == EAGAIN && !wait_for(fd, POLLOUT, deadline_ms)) {
      return fail(answer, "it does not answer in time");
    }
  }
  return true;
}

/* Bytes of the whole answer, once its head is there and says; else ANSWER_MAX. */
static size_t whole_length(const struct answer *answer) {
  const char *end = strstr(answer->text, "\r\n\r\n");
  if (!end) return ANSWER_MAX;
  size_t head = (size_t)(end + 4 - answer->text);
  for (const char *line = answer->text; line < end; line = strstr(line, "\r\n") + 2) {
    if (strncasecmp(line, "content-length:", 15) != 0) continue;
    unsigned long body = strtoul(line + 15, NULL, 10);
    return body < ANSWER_MAX - head ? head + body : ANSWER_MAX;
  }
  return ANSWER_MAX;
}

static bool receive(int fd, long long deadline_ms, struct answer *answer) {
  size_t length = 0;
  answer->text[0] = 0;
  while (length < whole_length(answer)) {
    ssize_t got = recv(fd, answer->text + length, ANSWER_MAX - length, 0);
    if (got > 0) {
      length += (size_t)got;
      answer->text[length] = 0;
    } else if (got == 0 || errno == ECONNRESET) {
      break;
    } else if (errno != EINTR && errno != EAGAIN) {
      return fail(answer, strerror(errno));
    } else if (errno == EAGAIN && !wait_for(fd, POLLIN, deadline_ms)) {
      return fail(answer, "it does not answer in time");
    }
  }
  char *end = strstr(answer->text, "\r\n\r\n");
  if (!end || sscanf(answer->text, "HTTP/1.%*1[01] %3d", &answer->status) != 1)
    return fail(answer, "it does not speak HTTP");
  answer->body = end + 4;
  return true;
}

void agent_post(const char *socket, const char *tenant, const char *verb, const char *body, size_t length,
                int timeout_ms, struct answer *answer) {
  long long deadline_ms = now_ms() + timeout_ms;
  char head[512];
  answer->status = 0;
  answer->body = "";
  int fd = connect_to(socket, deadline_ms, answer);
  if (fd < 0) return;
  int written = snprintf(head, sizeof head,
                         "POST /v1/tenants/%s/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                         tenant, verb, length);
  if (send_all(fd, head, (size_t)written, deadline_ms, answer) && send_all(fd, body, length, deadline_ms, answer))
    receive(fd, deadline_ms, answer);
  close(fd);
}
