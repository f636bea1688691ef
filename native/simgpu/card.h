/* card.h - the physical cards of one simulated machine.
 *
 * All processes that name the same state folder (CGPU_SIM_STATE) share them: physical memory, the
 * processes that hold it, and the time of each card. There is no daemon: the state is one mapped
 * file; whoever looks, under the machine's lock, first advances the cards to the present. Each
 * write inside the lock goes through an undo log in the same file, so that a process killed with
 * the lock held leaves a state that the next one rolls back. The lock names its owner's process
 * slot; the owner's life is a kernel-released lock on a byte of a second file, valid across PID
 * namespaces.
 *
 * The driver libraries (cuda_*.c, nvml_*.c) are built on these functions and touch the file in no
 * other way. Functions return 0 or a negative sg_error. Times are CLOCK_MONOTONIC nanoseconds.
 */
#ifndef CGPU_SIM_CARD_H
#define CGPU_SIM_CARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SG_GRANULE_BYTES (2u << 20) /* physical memory is given out in 2 MiB granules */
#define SG_MAX_CARDS 16

enum sg_error {
  SG_OK = 0,
  SG_E_NOMEM = -1,   /* the card's memory is exhausted, truly or by an injected fault */
  SG_E_LOST = -2,    /* the card has fallen off the bus (injected), or this process has closed all its
                        descriptors, ours among them, and so has lost all cards */
  SG_E_FULL = -3,    /* a table of the machine is full */
  SG_E_INVALID = -4, /* no such object */
  SG_E_STATE = -5,   /* the state folder is missing, foreign, or of another version */
  SG_E_TIMEOUT = -6,
  SG_E_FAULT = -7,   /* a fault killed the context: sg_context_error tells which */
};

/* ---- machine and profile ---- */

struct sg_card_info { /* constant for the life of the machine */
  char name[96];
  uint8_t uuid[16];
  uint64_t total_bytes;     /* as NVML reports */
  uint64_t reserved_bytes;  /* the driver's own part of it */
  uint64_t context_bytes;   /* device memory that one context takes */
  uint32_t sm_count, cc_major, cc_minor, max_threads_per_sm, clock_khz, memory_clock_khz, bus_width_bits;
  uint32_t l2_bytes, power_limit_mw, pci_bus, pci_device, pci_domain, pci_device_id;
  uint64_t memory_bytes_per_s, pcie_bytes_per_s;
  uint64_t timeslice_ns;      /* between contexts with work; about 1 ms on real cards */
  uint64_t context_switch_ns; /* lost at each change of context */
  uint64_t launch_floor_ns;   /* least duration of a kernel */
  uint64_t block_ns;          /* modelled time of one block of 1024 threads on one SM */
};
struct sg_machine_info {
  char driver_version[32]; /* "550.163.01" */
  int cuda_version;        /* 12040 */
  int cards;
};

/* Joins the machine named by CGPU_SIM_STATE, creating it from the profile in CGPU_SIM_PROFILE (a
 * path of a profile file) when the folder is empty, and registers this process. Idempotent; again
 * after fork it registers the child anew. Must be called before anything else here. */
int sg_join(void);
/* The same for a folder named by the caller. Where the folder is empty, `create` says what to make;
 * without it an empty folder is SG_E_STATE. A process is in one machine at a time. */
struct sg_create {
  const char *profile; /* path of a profile file */
  const char *driver;  /* replaces the profile's driver version; null: don't */
  int cards;           /* replaces the profile's number of cards; 0: don't */
};
int sg_join_at(const char *folder, const struct sg_create *create);
/* Leaves the machine again: all that this process holds in it is freed, as when it dies. No other
 * thread may be in here meanwhile. For tools that look at several machines. */
int sg_leave(void);
const struct sg_machine_info *sg_machine(void);
const struct sg_card_info *sg_card(int card);
uint64_t sg_now_ns(void);
bool sg_card_lost(int card);

/* ---- physical memory ---- */

typedef uint32_t sg_phys; /* an object of physical memory, machine wide; 0 is none */

/* Takes ceil(bytes / granule) granules of the card for this process. The object lives while any
 * process holds a reference; processes that die drop theirs. */
int sg_phys_create(int card, uint64_t bytes, sg_phys *object);
/* The same, but exempt from the cgroup's limit, as managed memory is on r615. */
int sg_phys_create_managed(int card, uint64_t bytes, sg_phys *object);
int sg_phys_retain(sg_phys object); /* by this process, also of another's object */
int sg_phys_release(sg_phys object);
int sg_phys_info(sg_phys object, int *card, uint64_t *bytes);
/* Backs [address, address+bytes) of this process with the object from `offset` on (mmap, MAP_FIXED,
 * shared); lazily, so untouched memory costs nothing. Unmapping is the caller's munmap. */
int sg_phys_map(sg_phys object, uint64_t offset, void *address, uint64_t bytes, int prot);
int sg_memory(int card, uint64_t *free_bytes, uint64_t *used_bytes); /* the whole card's truth */
/* What the r615 limit of this process's cgroup leaves, UINT64_MAX when none is set. */
int sg_memory_limit(int card, uint64_t *limit_bytes, uint64_t *used_bytes);

/* ---- contexts, channels, fences: the time of a card ----
 *
 * A context is a competitor for the card: contexts with runnable kernels take turns of
 * timeslice_ns. A channel is an in-order queue (a stream) of a context. A fence is a counter with
 * the device time of its last change; waiting for `value` means fence >= value. Fences are machine
 * wide, so events can be shared between processes and cards.
 */
typedef uint32_t sg_context;
typedef uint32_t sg_channel;
typedef uint32_t sg_fence;

int sg_context_create(int card, sg_context *context); /* takes context_bytes too */
int sg_context_destroy(sg_context context);           /* drops its queued work */
/* The Xid that killed the context, 0 while it is well. Its further submissions and waits answer
 * SG_E_FAULT. */
int sg_context_error(sg_context context, uint64_t *xid);
int sg_channel_open(sg_context context, int priority, sg_channel *channel);
int sg_channel_close(sg_channel channel); /* after its queue is empty; otherwise drops it */
/* Closes itself once everything queued is complete; nothing may be submitted any more. */
int sg_channel_retire(sg_channel channel);
int sg_fence_create(sg_fence *fence);
/* Queued items that name the fence keep their meaning; only then does it end. When its owner dies,
 * whoever waits for it in a queue goes on. Work that is dropped (its context or channel destroyed,
 * killed by a fault, its process dead) gives its signals at that moment, so that nobody waits for
 * ever: ask sg_context_error after a wait. */
int sg_fence_destroy(sg_fence fence);

enum sg_op {
  SG_OP_KERNEL, /* takes the card's compute engine for duration_ns */
  SG_OP_HOLD,   /* a persistent kernel: the context is busy until fence >= value, which it sees only
                   in its own turns; other channels of the same context run meanwhile, other contexts
                   take turns with it; duration_ns is not used */
  SG_OP_LOCAL,  /* the owning process does it (copy, memset, callback) and calls sg_local_done; takes
                   duration_ns on `engine`, or longer if the owner does: it begins with the item, but
                   with SG_ENGINE_NONE, where nothing shows that the item has begun, at its end */
  SG_OP_WAIT,   /* stalls the channel, not the card, until fence >= value */
  SG_OP_SIGNAL, /* fence = max(fence, value), stamped with the device time */
};
enum sg_engine { SG_ENGINE_COMPUTE, SG_ENGINE_COPY_IN, SG_ENGINE_COPY_OUT, SG_ENGINE_NONE };

struct sg_item {
  uint8_t op, engine;
  uint16_t reserved;
  sg_fence fence;
  uint64_t value;       /* of the fence; for SG_OP_LOCAL the owner's own tag */
  uint64_t duration_ns;
};

/* How long a kernel of these dimensions takes on an otherwise idle card: blocks run in waves of
 * (SMs x blocks that fit an SM by threads); a wave takes block_ns scaled by the threads that an SM
 * has to run at a time, and the whole never less than launch_floor_ns. Pure. */
uint64_t sg_kernel_ns(const struct sg_card_info *card, const uint32_t grid[3], const uint32_t block[3]);

/* Within a context, kernels of different channels run one at a time, in order of priority (lower
 * first, as CUDA's) and then of readiness. A kernel that has begun is never overtaken. Copies run
 * beside it, one per direction and card, in order of readiness.
 *
 * Thread safe. Queues one item; waits while the channel's ring (1,024 items) is full, as a real driver does. */
int sg_submit(sg_channel channel, const struct sg_item *item);

int sg_fence_read(sg_fence fence, uint64_t *value, uint64_t *time_ns); /* advances the cards first */
int sg_fence_signal(sg_fence fence, uint64_t value);                   /* from the host, now */
int sg_fence_wait(sg_fence fence, uint64_t value, uint64_t timeout_ns); /* UINT64_MAX: no timeout */
/* Whether everything submitted to the channel so far is complete, and waiting for that. */
int sg_channel_idle(sg_channel channel, bool *idle);
int sg_channel_wait(sg_channel channel, uint64_t timeout_ns);

/* For the process's own worker thread: waits until one of this process's SG_OP_LOCAL items is due,
 * then returns its channel and tag. The worker does the effect and reports it done. */
struct sg_local {
  sg_channel channel;
  uint64_t tag;
};
int sg_local_next(struct sg_local *local, uint64_t timeout_ns);
int sg_local_done(const struct sg_local *local);

/* ---- the truth about the card, for NVML and for `cgpu sim status` ---- */

struct sg_process_usage {
  uint32_t pid;           /* in the namespace of the process that asks; 0 when not visible there */
  uint32_t own_pid;       /* as the process itself sees it */
  uint64_t start_ticks;
  uint64_t memory_bytes;  /* granules and context memory that it holds on this card */
  uint64_t busy_ns;       /* compute-engine time so far */
  uint64_t copy_ns;
  uint64_t kernels;
  uint64_t live_contexts;
  char comm[16];
  char cgroup[192];       /* path in cgroup v2 (or the first v1 line), as seen at registration */
};
/* The living processes that hold something on the card or have used it. Fills at most `capacity` rows;
 * *count gets how many there are. Dead processes are swept first. */
int sg_processes(int card, struct sg_process_usage *rows, unsigned capacity, unsigned *count);

/* Processes that have ended, newest first, as far as they are remembered (the last 512 rows): pid is
 * 0, memory_bytes 0. */
int sg_finished_processes(int card, struct sg_process_usage *rows, unsigned capacity, unsigned *count);

struct sg_cgroup_usage {
  char cgroup[192];
  uint64_t memory_bytes, busy_ns, copy_ns, kernels; /* of living and ended processes in exactly it */
  uint64_t hard_bytes, soft_bytes;                  /* 0: none */
  uint32_t live_processes;
};
int sg_cgroups(int card, struct sg_cgroup_usage *rows, unsigned capacity, unsigned *count);

struct sg_card_usage {
  uint64_t used_bytes, free_bytes, busy_ns, copy_ns, idle_ns, since_ns;
  uint64_t xid_count, last_xid;
  bool lost;
};
int sg_card_usage(int card, struct sg_card_usage *usage);
/* Busy share of the card (pid 0), or of one process by its `pid` as sg_processes gives it to the
 * caller, in the window before now (at most 2 s back, steps of about 20 ms); percent. */
int sg_utilisation(int card, uint32_t pid, uint64_t window_ns, unsigned *percent);

/* ---- r615 memory limits by cgroup, and faults on demand ----
 *
 * A cgroup is named by its path below the cgroup v2 mount ("/user.slice/x") or with it
 * ("/sys/fs/cgroup/user.slice/x"). A limit binds the sum over the processes of the cgroup and of
 * those below it. CGPU_SIM_CGROUP in a process's environment stands in for its real cgroup.
 */
int sg_set_memory_limit(int card, const char *cgroup, uint64_t hard_bytes, uint64_t soft_bytes); /* 0: none */
int sg_get_memory_limit(int card, const char *cgroup, uint64_t *hard_bytes, uint64_t *soft_bytes);

enum sg_fault {
  SG_FAULT_OOM,   /* value: how many of the next allocations fail for want of physical memory */
  SG_FAULT_LOST,  /* value: 1 falls off the bus (Xid 79, which ends all its contexts), 0 is back */
  SG_FAULT_XID,   /* value: the Xid number. One of an application (13, 31, 32, 43, 45, 68, 69, 94)
                     kills the context that is on the compute engine, any other all of the card */
  SG_FAULT_SLOW,  /* value: ns that each driver call of the kind that sg_fault_point names takes more */
};
int sg_fault_set(int card, enum sg_fault fault, uint64_t value);
/* Called by the driver libraries at the entry of calls that a real driver makes slow (allocation,
 * context creation, NVML queries): sleeps while SG_FAULT_SLOW is set. */
void sg_fault_point(int card);
/* Next Xid after *cursor for this card, waiting up to timeout_ns. */
int sg_xid_wait(int card, uint64_t *cursor, uint64_t *xid, uint64_t timeout_ns);

#endif
