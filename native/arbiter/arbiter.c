/* arbiter.c - the thread of arbiter.h: files and futexes around the state machine of turns.h. */
#include "arbiter.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "futex_words.h"
#include "guard.h"
#include "seat.h"

#define HEARTBEAT_NS 50000000u
/* While nobody has or wants the card: so rarely, and dated so far ahead, lest who begins to want it finds it too old. */
#define IDLE_HEARTBEAT_NS 600000000u
#define IDLE_AHEAD_NS 400000000u
#define LOOK_BEATS 4 /* at every so many heartbeats everybody is looked at, who may have died without a word */
#define IDLE_LOOK_BEATS 8 /* where that would keep the card from nobody */
#define POLL_NS 1000000u /* where the kernel cannot wait on several words */
#define WINDOW_MAX_NS 2000000000u
#define QUEUE_PART 2
#define PRIORITY_QUEUE_PART 4
/* Who is next is woken so long before: a thread that sleeps on an idle processor needs that to run again
 * (60 to 150 us were seen in a virtual machine), and the card would be idle meanwhile. */
#define LEAD_NS 120000u
#define LEAD_PART 16 /* of a quantum, at most */

struct cgpu_arbiter {
  pthread_mutex_t lock; /* of everything below; not held while the thread sleeps */
  pthread_t thread;
  _Atomic(uint32_t) control; /* futex word: something was changed from outside */
  bool stop;
  struct cgpu_turns turns;
  struct cgpu_seat seat[CGPU_POLICY_TENANTS]; /* same places as in turns */
  uint64_t heartbeat_ns;                      /* latest */
  unsigned beats;
  uint64_t due_ns;                            /* next pass */
  uint64_t wakeups, cpu_ns;
};

static void observe(struct cgpu_arbiter *arbiter, unsigned place, bool owners) {
  struct cgpu_turns_sight sight = cgpu_seat_read(&arbiter->seat[place], owners);
  cgpu_arbiter_turns_observe(&arbiter->turns, (int)place, &sight);
}

/* Whether nobody has or wants the card. */
static bool is_idle(const struct cgpu_arbiter *arbiter) {
  bool idle = arbiter->turns.phase == CGPU_TURNS_IDLE;
  for (unsigned i = 0; idle && i < CGPU_POLICY_TENANTS; i++) {
    const struct cgpu_turns_sight *sight = &arbiter->turns.tenant[i].sight;
    idle = !arbiter->seat[i].taken || !(sight->want || sight->busy);
  }
  return idle;
}

static void look(struct cgpu_arbiter *arbiter, unsigned place) { observe(arbiter, place, false); }

static void look_at_all(struct cgpu_arbiter *arbiter) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (arbiter->seat[i].taken) observe(arbiter, i, true);
  }
}

static void look_at_holders(struct cgpu_arbiter *arbiter) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (arbiter->seat[i].taken && cgpu_arbiter_turns_holds(&arbiter->turns, (int)i)) observe(arbiter, i, true);
  }
}

static void look_at_rung(struct cgpu_arbiter *arbiter) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (arbiter->seat[i].taken && cgpu_seat_rung(&arbiter->seat[i])) look(arbiter, i);
  }
}

/* Publishes what was decided. A tenant whose grant was closed, or that holds it and now has rivals,
 * may have changed its mind meanwhile without ringing: it is looked at again. True: there is one. */
static bool publish(struct cgpu_arbiter *arbiter) {
  bool again = false;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    struct cgpu_seat *seat = &arbiter->seat[i];
    if (!seat->taken) continue;
    struct cgpu_turns_grant old = seat->published;
    struct cgpu_turns_grant grant = cgpu_arbiter_turns_grant(&arbiter->turns, (int)i);
    cgpu_seat_publish(seat, grant);
    bool closed = grant.state == CGPU_GRANT_CLOSED && old.state != CGPU_GRANT_CLOSED;
    bool first_rival = grant.state == CGPU_GRANT_OPEN && grant.contenders > 1 && old.contenders <= 1;
    if (!closed && !first_rival) continue;
    look(arbiter, i);
    again = true;
  }
  return again;
}

static void account(struct cgpu_arbiter *arbiter, unsigned place) {
  const struct cgpu_turns *turns = &arbiter->turns;
  const struct cgpu_turns_tenant *tenant = &turns->tenant[place];
  struct cgpu_seat_account had = {turns->policy.tenant[place].charged_ns, tenant->waited_ns, tenant->turns,
                                  tenant->preempted, tenant->preempting};
  uint32_t demand = (tenant->sight.want ? CGPU_DEMAND_WANT : 0) | (tenant->sight.busy ? CGPU_DEMAND_BUSY : 0) |
                    (cgpu_arbiter_turns_holds(turns, (int)place) ? CGPU_DEMAND_HOLD : 0);
  cgpu_seat_account(&arbiter->seat[place], &had, demand);
}

static void beat(struct cgpu_arbiter *arbiter, uint64_t now_ns) {
  uint64_t ahead_ns = is_idle(arbiter) ? IDLE_AHEAD_NS : 0;
  arbiter->heartbeat_ns = now_ns;
  arbiter->beats++;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (!arbiter->seat[i].taken) continue;
    account(arbiter, i);
    cgpu_seat_beat(&arbiter->seat[i], now_ns + ahead_ns);
  }
}

/* What ended the sleep, other than the place whose doorbell rang. */
enum { WOKEN_BY_ANY = -1, WOKEN_BY_TIME = -2 };

/* Charges the time up to now. When this thread wakes up more than a quantum after it had to (the
 * machine was frozen, or has no processor left for it), the rest is not the holder's fault. */
static void pass_time(struct cgpu_arbiter *arbiter, uint64_t now_ns) {
  uint64_t latest_ns = arbiter->due_ns + arbiter->turns.policy.settings.quantum_ns;
  if (now_ns > latest_ns) {
    cgpu_arbiter_turns_advance(&arbiter->turns, latest_ns);
    cgpu_arbiter_turns_skip(&arbiter->turns, now_ns);
  }
  cgpu_arbiter_turns_advance(&arbiter->turns, now_ns);
}

/* Announces the next turn to whoever will have it, when it is due. Returns when it will be. */
static uint64_t announce(struct cgpu_arbiter *arbiter, uint64_t now_ns) {
  uint64_t part_ns = arbiter->turns.policy.settings.quantum_ns / LEAD_PART, at_ns;
  uint64_t lead_ns = part_ns < LEAD_NS ? part_ns : LEAD_NS;
  int next = cgpu_arbiter_turns_expected(&arbiter->turns, &at_ns);
  if (next == CGPU_POLICY_NOBODY) return CGPU_TURNS_NEVER;
  if (now_ns + lead_ns < at_ns) return at_ns - lead_ns;
  cgpu_seat_expect(&arbiter->seat[next], at_ns);
  return CGPU_TURNS_NEVER;
}

static uint64_t earlier(uint64_t left, uint64_t right) { return left < right ? left : right; }

/* Who begins to want the card rings, and finds a fresh heartbeat before it has to ask for one. */
static uint64_t next_beat_ns(const struct cgpu_arbiter *arbiter) {
  return arbiter->heartbeat_ns + (is_idle(arbiter) ? IDLE_HEARTBEAT_NS : HEARTBEAT_NS);
}

/* One pass over the state machine. Returns when the next one is due. */
static uint64_t step(struct cgpu_arbiter *arbiter, int place) {
  uint64_t now_ns = futex_now_ns(), next_ns;
  pass_time(arbiter, now_ns);
  bool heartbeat = now_ns - arbiter->heartbeat_ns >= HEARTBEAT_NS;
  bool everybody = heartbeat && arbiter->beats % (is_idle(arbiter) ? IDLE_LOOK_BEATS : LOOK_BEATS) == 0;
  if (everybody) {
    look_at_all(arbiter);
  } else if (place >= 0) {
    look(arbiter, (unsigned)place);
  } else if (place == WOKEN_BY_ANY) {
    look_at_rung(arbiter);
  } else if (arbiter->turns.phase == CGPU_TURNS_DRAINING) {
    look(arbiter, (unsigned)arbiter->turns.holder); /* what it waits for elsewhere is not announced here */
  }
  if (heartbeat && !everybody) look_at_holders(arbiter); /* one that has died keeps the card from the others */
  do {
    next_ns = cgpu_arbiter_turns_decide(&arbiter->turns);
  } while (publish(arbiter));
  if (heartbeat) beat(arbiter, now_ns);
  next_ns = earlier(next_ns, announce(arbiter, now_ns));
  arbiter->due_ns = earlier(next_ns, next_beat_ns(arbiter));
  return arbiter->due_ns;
}

/* A tenant that wants the card and has nothing on it has nothing to say until it is its turn. Most are
 * like that on a card with many tenants, and each doorbell costs at every sleep. */
static bool waits_its_turn(const struct cgpu_arbiter *arbiter, unsigned place) {
  const struct cgpu_turns_tenant *tenant = &arbiter->turns.tenant[place];
  return tenant->sight.want && !tenant->sight.busy && !cgpu_arbiter_turns_holds(&arbiter->turns, (int)place);
}

/* Sleeps until a word changes or the time has come. Returns the place whose doorbell rang, or
 * WOKEN_BY_*. Called with the lock, which it gives up meanwhile. */
static int sleep_until(struct cgpu_arbiter *arbiter, uint64_t until_ns) {
  struct futex_word words[1 + CGPU_POLICY_TENANTS];
  int places[1 + CGPU_POLICY_TENANTS];
  unsigned count = 1;
  words[0] = futex_word_of(&arbiter->control, atomic_load(&arbiter->control), true);
  places[0] = WOKEN_BY_ANY;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    struct cgpu_seat *seat = &arbiter->seat[i];
    if (!seat->taken || !seat->readable || waits_its_turn(arbiter, i)) continue;
    places[count] = (int)i;
    words[count++] = futex_word_of(cgpu_seat_doorbell(seat), seat->doorbell, false);
  }
  pthread_mutex_unlock(&arbiter->lock);
  int woken = futex_wait_any(words, count, until_ns, POLL_NS);
  /* A tenant has shortened its file between the read and the wait: wait without doorbells once. */
  if (woken == -EFAULT) futex_wait_one(&words[0], futex_now_ns() + POLL_NS);
  pthread_mutex_lock(&arbiter->lock);
  if (woken == -ETIMEDOUT) return WOKEN_BY_TIME;
  return woken > 0 ? places[woken] : WOKEN_BY_ANY;
}

static uint64_t thread_cpu_ns(void) {
  struct timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static void *run(void *argument) {
  struct cgpu_arbiter *arbiter = argument;
  prctl(PR_SET_NAME, "cgpu-arbiter");
  prctl(PR_SET_TIMERSLACK, 1000); /* turns end on time; the default slack is 50 us */
  pthread_mutex_lock(&arbiter->lock);
  int place = WOKEN_BY_ANY;
  while (!arbiter->stop) {
    uint64_t until_ns = step(arbiter, place);
    arbiter->cpu_ns = thread_cpu_ns();
    place = sleep_until(arbiter, until_ns);
    arbiter->wakeups++;
  }
  pthread_mutex_unlock(&arbiter->lock);
  return NULL;
}

static int find(const struct cgpu_arbiter *arbiter, uint64_t id) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (arbiter->seat[i].taken && arbiter->seat[i].id == id) return (int)i;
  }
  return CGPU_POLICY_NOBODY;
}

static uint32_t least_share_ppm(const struct cgpu_arbiter *arbiter) {
  uint32_t least = CGPU_PPM;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (!arbiter->seat[i].taken) continue;
    uint32_t share = cgpu_arbiter_policy_share_ppm(&arbiter->turns.policy, (int)i);
    if (share < least) least = share;
  }
  return least ? least : 1;
}

static bool priority_present(const struct cgpu_policy *policy) {
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (policy->tenant[i].present && policy->tenant[i].share.priority) return true;
  }
  return false;
}

/* What a tenant may queue on the card: half a quantum, so that a turn can end sooner than it was meant
 * to; less beside tenants of high priority, which wait for what is queued. */
static uint64_t queue_ns(const struct cgpu_policy *policy, unsigned place, bool priority) {
  bool waited_for = priority && !policy->tenant[place].share.priority;
  uint64_t part_ns = policy->settings.quantum_ns / (waited_for ? PRIORITY_QUEUE_PART : QUEUE_PART);
  return part_ns < CGPU_ARBITER_QUANTUM_MIN_NS ? CGPU_ARBITER_QUANTUM_MIN_NS : part_ns;
}

/* Divides the common window anew: parts side by side, the least of them one quantum long. */
static void set_shares(struct cgpu_arbiter *arbiter) {
  const struct cgpu_policy *policy = &arbiter->turns.policy;
  bool priority = priority_present(policy);
  struct cgpu_seat_share share = {.quantum_ns = policy->settings.quantum_ns};
  share.window_ns = share.quantum_ns * CGPU_PPM / least_share_ppm(arbiter);
  if (share.window_ns > WINDOW_MAX_NS) share.window_ns = WINDOW_MAX_NS;
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (!arbiter->seat[i].taken) continue;
    share.share_ppm = cgpu_arbiter_policy_share_ppm(policy, (int)i);
    share.queue_ns = queue_ns(policy, i, priority);
    cgpu_seat_set_share(&arbiter->seat[i], share);
    share.offset_ppm += share.share_ppm;
  }
}

/* After a change from outside, with the lock. */
static void changed(struct cgpu_arbiter *arbiter) {
  set_shares(arbiter);
  arbiter->heartbeat_ns = 0;
  atomic_fetch_add(&arbiter->control, 1);
  futex_wake_all(&arbiter->control, true);
}

static int check_settings(const struct cgpu_policy_settings *settings) {
  if (!cgpu_arbiter_policy_known(settings->kind)) return EOPNOTSUPP;
  bool quantum = settings->quantum_ns >= CGPU_ARBITER_QUANTUM_MIN_NS &&
                 settings->quantum_ns <= CGPU_ARBITER_QUANTUM_MAX_NS;
  bool slices = settings->max_inst >= 1 && settings->max_inst <= CGPU_POLICY_TENANTS;
  bool ratio = settings->prio_ratio >= 20 && settings->prio_ratio <= 99;
  return quantum && slices && ratio ? 0 : EINVAL;
}

int cgpu_arbiter_start(const struct cgpu_policy_settings *settings, struct cgpu_arbiter **out) {
  int error = check_settings(settings);
  if (error) return error;
  struct cgpu_arbiter *arbiter = calloc(1, sizeof *arbiter);
  if (!arbiter) return ENOMEM;
  pthread_mutex_init(&arbiter->lock, NULL);
  cgpu_guard_grants();
  arbiter->due_ns = futex_now_ns();
  cgpu_arbiter_turns_init(&arbiter->turns, settings, arbiter->due_ns);
  sigset_t all, old; /* the signals of the process are its main thread's */
  sigfillset(&all);
  sigdelset(&all, SIGBUS); /* that one is the thread's own */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  error = pthread_create(&arbiter->thread, NULL, run, arbiter);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (error) {
    free(arbiter);
    return error;
  }
  *out = arbiter;
  return 0;
}

void cgpu_arbiter_stop(struct cgpu_arbiter *arbiter) {
  pthread_mutex_lock(&arbiter->lock);
  arbiter->stop = true;
  changed(arbiter);
  pthread_mutex_unlock(&arbiter->lock);
  pthread_join(arbiter->thread, NULL);
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (!arbiter->seat[i].taken) continue;
    account(arbiter, i);
    cgpu_seat_abandon(&arbiter->seat[i]);
    cgpu_seat_close(&arbiter->seat[i]);
  }
  pthread_mutex_destroy(&arbiter->lock);
  free(arbiter);
}

static int add(struct cgpu_arbiter *arbiter, uint64_t id, int usage_fd, int grants_fd, uint32_t row,
               const struct cgpu_policy_share *share) {
  if (find(arbiter, id) != CGPU_POLICY_NOBODY) return EEXIST;
  int place = cgpu_arbiter_turns_join(&arbiter->turns, share);
  if (place == CGPU_POLICY_NOBODY) return ENOSPC;
  int error = cgpu_seat_open(&arbiter->seat[place], id, usage_fd, grants_fd, row);
  if (error) cgpu_arbiter_turns_leave(&arbiter->turns, place);
  return error;
}

int cgpu_arbiter_add(struct cgpu_arbiter *arbiter, uint64_t id, int usage_fd, int grants_fd, uint32_t row,
                     const struct cgpu_policy_share *share) {
  pthread_mutex_lock(&arbiter->lock);
  int error = add(arbiter, id, usage_fd, grants_fd, row, share);
  if (!error) changed(arbiter);
  pthread_mutex_unlock(&arbiter->lock);
  return error;
}

int cgpu_arbiter_watch(struct cgpu_arbiter *arbiter, uint64_t id, int locks_fd) {
  pthread_mutex_lock(&arbiter->lock);
  int place = find(arbiter, id);
  int error = place == CGPU_POLICY_NOBODY ? ENOENT : cgpu_seat_watch(&arbiter->seat[place], locks_fd);
  pthread_mutex_unlock(&arbiter->lock);
  return error;
}

int cgpu_arbiter_remove(struct cgpu_arbiter *arbiter, uint64_t id) {
  pthread_mutex_lock(&arbiter->lock);
  int place = find(arbiter, id);
  if (place != CGPU_POLICY_NOBODY) {
    cgpu_arbiter_turns_advance(&arbiter->turns, futex_now_ns());
    account(arbiter, (unsigned)place);
    cgpu_arbiter_turns_leave(&arbiter->turns, place);
    cgpu_seat_publish(&arbiter->seat[place], (struct cgpu_turns_grant){.state = CGPU_GRANT_FREE});
    cgpu_seat_close(&arbiter->seat[place]);
    changed(arbiter);
  }
  pthread_mutex_unlock(&arbiter->lock);
  return place == CGPU_POLICY_NOBODY ? ENOENT : 0;
}

int cgpu_arbiter_update(struct cgpu_arbiter *arbiter, uint64_t id, const struct cgpu_policy_share *share) {
  pthread_mutex_lock(&arbiter->lock);
  int place = find(arbiter, id);
  if (place != CGPU_POLICY_NOBODY) {
    cgpu_arbiter_turns_advance(&arbiter->turns, futex_now_ns());
    cgpu_arbiter_turns_share(&arbiter->turns, place, share);
    changed(arbiter);
  }
  pthread_mutex_unlock(&arbiter->lock);
  return place == CGPU_POLICY_NOBODY ? ENOENT : 0;
}

int cgpu_arbiter_set_policy(struct cgpu_arbiter *arbiter, const struct cgpu_policy_settings *settings) {
  int error = check_settings(settings);
  if (error) return error;
  pthread_mutex_lock(&arbiter->lock);
  cgpu_arbiter_turns_advance(&arbiter->turns, futex_now_ns());
  cgpu_arbiter_turns_set(&arbiter->turns, settings);
  changed(arbiter);
  pthread_mutex_unlock(&arbiter->lock);
  return 0;
}

void cgpu_arbiter_counters(struct cgpu_arbiter *arbiter, struct cgpu_arbiter_counters *counters) {
  pthread_mutex_lock(&arbiter->lock);
  const struct cgpu_policy *policy = &arbiter->turns.policy;
  *counters = (struct cgpu_arbiter_counters){.turns = policy->turns,
                                             .overruns = arbiter->turns.overruns,
                                             .wakeups = arbiter->wakeups,
                                             .cpu_ns = arbiter->cpu_ns};
  for (unsigned i = 0; i < CGPU_POLICY_TENANTS; i++) {
    if (!arbiter->seat[i].taken) continue;
    counters->tenants++;
    counters->charged_ns += policy->tenant[i].charged_ns;
  }
  pthread_mutex_unlock(&arbiter->lock);
}

int cgpu_arbiter_tenant(struct cgpu_arbiter *arbiter, uint64_t id, struct cgpu_arbiter_tenant_counters *counters) {
  pthread_mutex_lock(&arbiter->lock);
  int place = find(arbiter, id);
  if (place != CGPU_POLICY_NOBODY) {
    const struct cgpu_turns *turns = &arbiter->turns;
    *counters = (struct cgpu_arbiter_tenant_counters){
        .charged_ns = turns->policy.tenant[place].charged_ns,
        .waited_ns = turns->tenant[place].waited_ns,
        .turns = turns->tenant[place].turns,
        .preempted = turns->tenant[place].preempted,
        .preempting = turns->tenant[place].preempting,
        .want = turns->tenant[place].sight.want,
        .busy = turns->tenant[place].sight.busy,
        .holder = turns->holder == place,
        .share_ppm = cgpu_arbiter_policy_share_ppm(&turns->policy, place),
    };
  }
  pthread_mutex_unlock(&arbiter->lock);
  return place == CGPU_POLICY_NOBODY ? ENOENT : 0;
}
