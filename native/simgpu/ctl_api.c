/* ctl_api.c - libcgpu_simctl.so: creates simulated machines, looks at them and injects faults.
 *
 * Plain C for Python's ctypes. Each call enters the machine named by its folder and leaves it again;
 * who only looks holds neither memory nor contexts, so no list of processes shows it. All functions
 * return 0 or more, or an sg_error; then `error` holds the cause, one line of at most error_bytes.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "card_internal.h"
#include "ctl_json.h"

#define EXPORT __attribute__((visibility("default")))

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static char cause[SG_SAY_BYTES];

static const char *meaning(int rc) {
  switch (rc) {
    case SG_E_NOMEM: return "out of memory";
    case SG_E_LOST: return "the card is lost";
    case SG_E_FULL: return "a table of the machine is full";
    case SG_E_INVALID: return "no such card, fault or cgroup, or a value out of range";
    default: return "the machine cannot be used";
  }
}

static int enter(const char *folder, const struct sg_create *create) {
  pthread_mutex_lock(&one_at_a_time);
  cause[0] = 0;
  sg_said = cause;
  return sg_join_at(folder, create);
}

static int leave(int rc, char *error, size_t error_bytes) {
  if (sg_self) sg_leave();
  if (rc < 0) snprintf(error, error_bytes, "%s", cause[0] ? cause : meaning(rc));
  pthread_mutex_unlock(&one_at_a_time);
  return rc;
}

/* Creates the machine unless the folder holds one. `driver` null or empty, `cards` 0: the profile's. */
EXPORT int simctl_create(const char *folder, const char *profile, const char *driver, int cards, char *error,
                         size_t error_bytes) {
  struct sg_create create = {profile, driver, cards};
  return leave(enter(folder, &create), error, error_bytes);
}

/* The machine's state as JSON, NUL-terminated; returns its length. When that is not less than `bytes`,
 * the text is cut: ask again with more room. */
EXPORT int simctl_status_json(const char *folder, char *text, size_t bytes, char *error, size_t error_bytes) {
  int rc = enter(folder, NULL);
  if (rc == SG_OK) rc = ctl_status(text, bytes);
  return leave(rc, error, error_bytes);
}

/* `fault`: enum sg_fault. */
EXPORT int simctl_fault(const char *folder, int card, int fault, uint64_t value, char *error, size_t error_bytes) {
  int rc = enter(folder, NULL);
  if (rc == SG_OK) rc = sg_fault_set(card, (enum sg_fault)fault, value);
  return leave(rc, error, error_bytes);
}

/* Limits the device memory of a cgroup; 0 is none. */
EXPORT int simctl_limit(const char *folder, int card, const char *cgroup, uint64_t hard_bytes, uint64_t soft_bytes,
                        char *error, size_t error_bytes) {
  int rc = enter(folder, NULL);
  if (rc == SG_OK) rc = sg_set_memory_limit(card, cgroup, hard_bytes, soft_bytes);
  return leave(rc, error, error_bytes);
}
