/* cuda_graph_memory.c - memory that graphs allocate and free (CUDA C++ Programming Guide, "Graph
 * Memory Nodes").
 *
 * An allocation node has its address from the start; physical memory comes with the first launch or
 * upload. When the allocation has been freed, in stream order, the memory stays with the device's
 * graph pool: for the next launch, or for another graph, until cuDeviceGraphMemTrim. Everything here
 * is guarded by the pool lock.
 *
 * An allocation counts the launches whose memory has not been freed yet (`pending`). While it is the
 * user's to free (`live`), it is one of them. Without memory behind it, its addresses show zeros.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "cuda_graph.h"
#include "cuda_pool.h"

struct graph_segment { /* a piece of the graph pool */
  sg_phys object;
  int card;
  uint64_t bytes;
  struct graph_allocation *user; /* mapped for it; idle when that has nothing pending */
  struct graph_segment *next;
};

struct graph_allocation {
  struct pool_hold hold;
  CUDA_MEM_ALLOC_NODE_PARAMS_v1 parameters;
  int card;
  uint64_t span;
  unsigned references; /* nodes */
  unsigned pending;
  bool live;
  CUcontext context;   /* of the latest launch */
  struct graph_segment *segment;
  struct graph_allocation *next;
};

struct graph_pool { /* of one card */
  uint64_t used, used_high, reserved, reserved_high; /* bytes */
};

static struct graph_segment *segments;
static struct graph_allocation *allocations;
static struct graph_pool graph_pools[SG_MAX_CARDS];

/* ---- physical memory ---- */

static void show_zeros(const struct graph_allocation *allocation) {
  mmap(sim_shadow(allocation->hold.block.address), allocation->span, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static void detach(struct graph_segment *segment) {
  if (segment->user) {
    segment->user->segment = NULL;
    segment->user->hold.block.object = 0;
    show_zeros(segment->user);
  }
  segment->user = NULL;
}

static bool idle(const struct graph_segment *segment) { return segment->user == NULL || segment->user->pending == 0; }

void graph_memory_trim(int card) {
  for (struct graph_segment **link = &segments; *link;) {
    struct graph_segment *each = *link;
    if (each->card != card || !idle(each)) {
      link = &each->next;
      continue;
    }
    detach(each);
    *link = each->next;
    graph_pools[card].reserved -= each->bytes;
    sg_phys_release(each->object);
    free(each);
  }
}

static CUresult segment_new(int card, uint64_t bytes, struct graph_segment **segment) {
  struct graph_segment *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  int created = sg_phys_create(card, bytes, &fresh->object);
  if (created == SG_E_NOMEM) { /* what idles in other sizes makes room */
    graph_memory_trim(card);
    created = sg_phys_create(card, bytes, &fresh->object);
  }
  if (created != SG_OK) {
    free(fresh);
    return sim_result(created);
  }
  fresh->card = card;
  fresh->bytes = bytes;
  fresh->next = segments;
  segments = fresh;
  struct graph_pool *pool = &graph_pools[card];
  pool->reserved += bytes;
  if (pool->reserved > pool->reserved_high)
    pool->reserved_high = pool->reserved;
  *segment = fresh;
  return CUDA_SUCCESS;
}

/* Memory behind the addresses: what it had before, else something idle of the same size, else new. */
static CUresult attach(struct graph_allocation *allocation) {
  CUresult result = CUDA_SUCCESS;
  if (allocation->segment)
    return CUDA_SUCCESS;
  struct graph_segment *segment = segments;
  while (segment && !(segment->card == allocation->card && segment->bytes == allocation->span && idle(segment)))
    segment = segment->next;
  if (segment == NULL)
    result = segment_new(allocation->card, allocation->span, &segment);
  if (result == CUDA_SUCCESS) {
    detach(segment);
    result = sim_va_back(allocation->hold.block.address, allocation->span, segment->object, 0, false);
  }
  if (result == CUDA_SUCCESS) {
    segment->user = allocation;
    allocation->segment = segment;
    allocation->hold.block.object = segment->object;
  }
  return result;
}

/* ---- allocations ---- */

static CUresult check_parameters(const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *parameters, int *card) {
  const CUmemPoolProps *pool = &parameters->poolProps;
  if (parameters->bytesize == 0 || parameters->bytesize > UINT64_MAX / 2 ||
      pool->allocType != CU_MEM_ALLOCATION_TYPE_PINNED || pool->handleTypes != CU_MEM_HANDLE_TYPE_NONE ||
      (parameters->accessDescCount != 0 && parameters->accessDescs == NULL))
    return CUDA_ERROR_INVALID_VALUE;
  if (pool->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
    return CUDA_ERROR_NOT_SUPPORTED;
  return sim_device_card(pool->location.id, card);
}

CUresult graph_allocation_new(const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *parameters, struct graph_allocation **allocation) {
  int card;
  uint64_t address;
  CUresult result = check_parameters(parameters, &card);
  if (result != CUDA_SUCCESS)
    return result;
  struct graph_allocation *fresh = calloc(1, sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  fresh->card = card;
  fresh->references = 1;
  fresh->span = (parameters->bytesize + SG_GRANULE_BYTES - 1) / SG_GRANULE_BYTES * SG_GRANULE_BYTES;
  result = sim_va_reserve(fresh->span, 0, 0, &address);
  if (result != CUDA_SUCCESS) {
    free(fresh);
    return result;
  }
  fresh->parameters = *parameters;
  fresh->parameters.dptr = address;
  fresh->parameters.accessDescs = NULL;
  fresh->parameters.accessDescCount = 0;
  fresh->hold.kind = POOL_HOLD_GRAPH;
  fresh->hold.block = (struct sim_block){
      .address = address, .bytes = parameters->bytesize, .kind = SIM_MEMORY_POOL, .card = card, .accessible = true};
  show_zeros(fresh);
  result = sim_block_insert(&fresh->hold.block);
  if (result != CUDA_SUCCESS) {
    sim_va_unback(address, fresh->span);
    sim_va_release(address, fresh->span);
    free(fresh);
    return result;
  }
  pool_lock();
  fresh->next = allocations;
  allocations = fresh;
  pool_unlock();
  *allocation = fresh;
  return CUDA_SUCCESS;
}

CUdeviceptr graph_allocation_address(const struct graph_allocation *allocation) { return allocation->parameters.dptr; }

const CUDA_MEM_ALLOC_NODE_PARAMS_v1 *graph_allocation_parameters(const struct graph_allocation *allocation) {
  return &allocation->parameters;
}

void graph_allocation_retain(struct graph_allocation *allocation) {
  pool_lock();
  allocation->references++;
  pool_unlock();
}

static void end_if_unused(struct graph_allocation *allocation) {
  if (allocation->references != 0 || allocation->pending != 0)
    return;
  struct graph_allocation **link = &allocations;
  while (*link != allocation)
    link = &(*link)->next;
  *link = allocation->next;
  sim_block_remove(&allocation->hold.block);
  if (allocation->segment)
    allocation->segment->user = NULL;
  sim_va_unback(allocation->hold.block.address, allocation->span);
  sim_va_release(allocation->hold.block.address, allocation->span);
  free(allocation);
}

void graph_allocation_release(struct graph_allocation *allocation) {
  pool_lock();
  allocation->references--;
  end_if_unused(allocation);
  pool_unlock();
}

static struct graph_allocation *allocation_at(CUdeviceptr address) {
  struct graph_allocation *each = allocations;
  while (each && each->hold.block.address != address)
    each = each->next;
  return each;
}

bool graph_allocation_at(CUdeviceptr address) {
  pool_lock();
  bool found = allocation_at(address) != NULL;
  pool_unlock();
  return found;
}

/* One launch's use begins, and ends. */
static void begin_use(struct graph_allocation *allocation) {
  struct graph_pool *pool = &graph_pools[allocation->card];
  if (allocation->pending++ == 0) {
    pool->used += allocation->span;
    if (pool->used > pool->used_high)
      pool->used_high = pool->used;
  }
}

static void end_use(struct graph_allocation *allocation) {
  if (--allocation->pending == 0)
    graph_pools[allocation->card].used -= allocation->span;
  end_if_unused(allocation);
}

/* ---- launches ---- */

/* Calls `visit` for each node of the type, in child graphs too, until it fails. */
static CUresult each_node(CUgraph graph, CUgraphNodeType type, CUresult (*visit)(CUgraphNode node, void *argument),
                          void *argument) {
  CUresult result = CUDA_SUCCESS;
  for (CUgraphNode node = graph->nodes; node && result == CUDA_SUCCESS; node = node->next) {
    if (node->child)
      result = each_node(node->child, type, visit, argument);
    else if (node->type == type)
      result = visit(node, argument);
  }
  return result;
}

struct start {
  CUcontext context;
  bool free_first;
};

static CUresult attach_node(CUgraphNode node, void *argument) {
  const struct start *start = argument;
  CUresult result = attach(node->allocation);
  if (result == CUDA_SUCCESS)
    node->allocation->context = start->context;
  return result;
}

static CUresult check_not_live(CUgraphNode node, void *argument) {
  const struct start *start = argument;
  return node->allocation->live && !start->free_first ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

static CUresult start_allocation(CUgraphNode node, void *unused) {
  (void)unused;
  struct graph_allocation *allocation = node->allocation;
  begin_use(allocation);
  if (allocation->live) /* freed first: launches of one graph follow each other */
    end_use(allocation);
  allocation->live = true;
  return CUDA_SUCCESS;
}

static CUresult take_from_user(CUgraphNode node, void *unused) {
  (void)unused;
  struct graph_allocation *allocation = allocation_at(node->work.pool.address);
  if (allocation == NULL || !allocation->live)
    return CUDA_ERROR_INVALID_VALUE;
  allocation->live = false;
  return CUDA_SUCCESS;
}

static CUresult cancel_allocation(CUgraphNode node, void *unused) {
  (void)unused;
  node->allocation->live = false;
  end_use(node->allocation);
  return CUDA_SUCCESS;
}

CUresult graph_memory_bind(CUgraph graph, CUcontext context) {
  struct start start = {.context = context};
  pool_lock();
  CUresult result = each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, attach_node, &start);
  pool_unlock();
  return result;
}

CUresult graph_memory_start(CUgraph graph, CUcontext context, bool free_first) {
  struct start start = {.context = context, .free_first = free_first};
  pool_lock();
  CUresult result = each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, check_not_live, &start);
  if (result == CUDA_SUCCESS)
    result = each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, attach_node, &start);
  if (result == CUDA_SUCCESS) {
    each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, start_allocation, NULL);
    result = each_node(graph, CU_GRAPH_NODE_TYPE_MEM_FREE, take_from_user, NULL);
    if (result != CUDA_SUCCESS)
      each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, cancel_allocation, NULL);
  }
  pool_unlock();
  return result;
}

void graph_memory_cancel(CUgraph graph) {
  pool_lock();
  each_node(graph, CU_GRAPH_NODE_TYPE_MEM_ALLOC, cancel_allocation, NULL);
  pool_unlock();
}

/* ---- frees ---- */

struct graph_free { /* on its way through a stream */
  struct graph_allocation *allocation;
  bool done;
};

static void run_free(void *argument) {
  struct graph_free *ticket = argument;
  pool_lock();
  if (!ticket->done && ticket->allocation->pending != 0)
    end_use(ticket->allocation);
  ticket->done = true;
  pool_unlock();
}

static void drop_free(void *argument) {
  struct graph_free *ticket = argument;
  run_free(ticket); /* the context has ended first */
  free(ticket);
}

/* Gives up the pool lock: the stream may be full, and then waits for work that needs the pool. */
static CUresult free_in_stream(struct graph_allocation *allocation, CUstream stream) {
  struct graph_free *ticket = calloc(1, sizeof *ticket);
  pool_unlock();
  if (ticket == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  ticket->allocation = allocation;
  CUresult result = sim_stream_local(stream, SG_ENGINE_NONE, 0, run_free, drop_free, ticket);
  if (result != CUDA_SUCCESS)
    free(ticket);
  return result;
}

CUresult graph_memory_put_free(CUstream stream, CUdeviceptr address) {
  pool_lock();
  struct graph_allocation *allocation = allocation_at(address);
  if (allocation)
    return free_in_stream(allocation, stream);
  pool_unlock();
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult graph_memory_free_later(struct pool_hold *hold, CUstream stream) {
  struct graph_allocation *allocation = SIM_CONTAINER_OF(hold, struct graph_allocation, hold);
  if (!allocation->live) {
    pool_unlock();
    return CUDA_ERROR_INVALID_VALUE;
  }
  allocation->live = false;
  return free_in_stream(allocation, stream);
}

CUresult graph_memory_free_now(struct pool_hold *hold) {
  struct graph_allocation *allocation = SIM_CONTAINER_OF(hold, struct graph_allocation, hold);
  if (!allocation->live)
    return CUDA_ERROR_INVALID_VALUE;
  allocation->live = false;
  end_use(allocation);
  return CUDA_SUCCESS;
}

/* Its queued frees have been dropped already; what is left is what nobody had freed. */
void graph_memory_forget_context(CUcontext context) {
  for (struct graph_allocation *each = allocations, *next; each; each = next) {
    next = each->next;
    if (each->context != context || each->pending == 0)
      continue;
    each->live = false;
    each->pending = 1;
    end_use(each);
  }
}

/* ---- the device's graph pool ---- */

CUresult CUDAAPI cuDeviceGraphMemTrim(CUdevice device) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  graph_memory_trim(card);
  pool_unlock();
  return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value) {
  int card;
  if (value == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  cuuint64_t *bytes = value;
  pool_lock();
  const struct graph_pool *pool = &graph_pools[card];
  switch (attr) {
  case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT: *bytes = pool->used; break;
  case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH: *bytes = pool->used_high; break;
  case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT: *bytes = pool->reserved; break;
  case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH: *bytes = pool->reserved_high; break;
  default: result = CUDA_ERROR_INVALID_VALUE;
  }
  pool_unlock();
  return result;
}

/* Only the high-water marks can be set, and only to zero: they start again from the present. */
CUresult CUDAAPI cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value) {
  int card;
  if (value == NULL || *(const cuuint64_t *)value != 0)
    return CUDA_ERROR_INVALID_VALUE;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pool_lock();
  struct graph_pool *pool = &graph_pools[card];
  if (attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
    pool->used_high = pool->used;
  else if (attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
    pool->reserved_high = pool->reserved;
  else
    result = CUDA_ERROR_INVALID_VALUE;
  pool_unlock();
  return result;
}
