/* cuda_share.c - file descriptors that stand for an object of the simulated card.
 *
 * The user's descriptor is one end of a Unix socket pair whose buffer holds the record; importers look
 * at it with MSG_PEEK. The driver keeps the other end: when that sees the hang-up, the last copy of the
 * user's end is gone. One thread waits for all hang-ups; it starts with the first export and ends when
 * nothing is exported any more.
 */
#include "cuda_share.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cuda_process.h"

#define SHARE_MAGIC 0x5c5a4e01u

struct export_watch {
  int socket; /* the driver's end */
  void (*closed)(void *);
  void *argument;
  struct export_watch *next;
};

static pthread_mutex_t share_lock = PTHREAD_MUTEX_INITIALIZER;
static struct export_watch *watches; /* guarded by share_lock */
static bool watching;                /* the thread is there */
static int wake = -1;                /* eventfd: the list has grown */

/* The list as poll() wants it: the eventfd first. NULL and *count 0 when nothing is exported. */
static struct pollfd *watch_list(nfds_t *count) {
  size_t exports = 0;
  for (struct export_watch *each = watches; each; each = each->next)
    exports++;
  struct pollfd *list = exports ? calloc(exports + 1, sizeof *list) : NULL;
  *count = list ? exports + 1 : 0;
  if (list == NULL)
    return NULL;
  list[0] = (struct pollfd){.fd = wake, .events = POLLIN};
  size_t at = 1;
  for (struct export_watch *each = watches; each; each = each->next)
    list[at++] = (struct pollfd){.fd = each->socket}; /* POLLHUP needs no asking */
  return list;
}

/* Takes the watches that have hung up off the list. */
static struct export_watch *take_closed(const struct pollfd *list, nfds_t count) {
  struct export_watch *closed = NULL;
  for (nfds_t i = 1; i < count; i++) {
    if ((list[i].revents & (POLLHUP | POLLERR)) == 0)
      continue;
    for (struct export_watch **link = &watches; *link; link = &(*link)->next) {
      struct export_watch *each = *link;
      if (each->socket != list[i].fd)
        continue;
      *link = each->next;
      each->next = closed;
      closed = each;
      break;
    }
  }
  return closed;
}

static void *watch_exports(void *unused) {
  (void)unused;
  for (;;) {
    nfds_t count;
    pthread_mutex_lock(&share_lock);
    struct pollfd *list = watch_list(&count);
    if (list == NULL)
      watching = false;
    pthread_mutex_unlock(&share_lock);
    if (list == NULL)
      return NULL;
    if (poll(list, count, -1) > 0) {
      uint64_t ignored;
      if (list[0].revents && read(wake, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        list[0].revents = 0;
      pthread_mutex_lock(&share_lock);
      struct export_watch *closed = take_closed(list, count);
      pthread_mutex_unlock(&share_lock);
      while (closed) {
        struct export_watch *next = closed->next;
        close(closed->socket);
        closed->closed(closed->argument);
        free(closed);
        closed = next;
      }
    }
    free(list);
  }
}

/* A detached thread that takes none of the user's signals. */
static bool start_thread(void) {
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = pthread_create(&thread, NULL, watch_exports, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (failed == 0)
    pthread_detach(thread);
  return failed == 0;
}

/* With share_lock held: the list has grown. */
static bool start_watching(void) {
  if (wake < 0)
    wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake < 0)
    return false;
  if (watching) {
    const uint64_t one = 1;
    return write(wake, &one, sizeof one) == sizeof one || errno == EAGAIN;
  }
  watching = start_thread();
  return watching;
}

int sim_share_export(const struct sim_share *record, void (*closed)(void *argument), void *argument) {
  struct sim_share message = *record;
  message.magic = SHARE_MAGIC;
  struct export_watch *watch = calloc(1, sizeof *watch);
  int pair[2];
  if (watch == NULL || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0) {
    free(watch);
    return -1;
  }
  *watch = (struct export_watch){.socket = pair[1], .closed = closed, .argument = argument};
  bool sent = fcntl(pair[1], F_SETFD, FD_CLOEXEC) == 0 &&
              send(pair[1], &message, sizeof message, MSG_NOSIGNAL) == (ssize_t)sizeof message;
  if (sent) {
    pthread_mutex_lock(&share_lock);
    watch->next = watches;
    watches = watch;
    sent = start_watching();
    if (!sent)
      watches = watch->next;
    pthread_mutex_unlock(&share_lock);
  }
  if (!sent) {
    close(pair[0]);
    close(pair[1]);
    free(watch);
    return -1;
  }
  return pair[0];
}

bool sim_share_import(int descriptor, enum sim_share_kind kind, struct sim_share *record) {
  struct sim_share message;
  if (recv(descriptor, &message, sizeof message, MSG_PEEK | MSG_DONTWAIT) != (ssize_t)sizeof message)
    return false;
  if (message.magic != SHARE_MAGIC || message.kind != (uint32_t)kind)
    return false;
  if (message.card < 0 || message.card >= sg_machine()->cards)
    return false;
  *record = message;
  return true;
}

/* Two processes of one pid (in different namespaces) do not start in the same nanosecond. */
static pthread_once_t process_once = PTHREAD_ONCE_INIT;
static uint64_t process_token;

static void make_process_token(void) { process_token = sg_now_ns() ^ (uint64_t)getpid() << 44; }

uint64_t sim_share_process(void) {
  pthread_once(&process_once, make_process_token);
  return process_token;
}

void sim_share_token(uint64_t token[2]) {
  token[0] = sim_share_process();
  token[1] = sim_next_id();
}
