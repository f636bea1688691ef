/* cuda_green_resource.c - device resources: the SMs of a card, split into groups for green contexts.
 *
 * Which SM is in which group makes no difference to the model, only how many there are: a resource
 * says how many, and in cuda.h's padding where it comes from. Least size and alignment of a group are
 * those of NVIDIA's documentation of CUDA 12.4 (cuDevSmResourceSplitByCount) by compute capability.
 * Without co-scheduling, 9.0 and later are taken to have the same pairs of SMs as earlier cards.
 * Workqueues are not modelled.
 */
#include "cuda_green.h"

#include <stdlib.h>
#include <string.h>

/* What _internal_padding holds: an SM resource is of [first, first + count) of what was split. */
struct origin {
  uint32_t mark;
  int card;
  uint64_t split; /* id of the call that made it; 0 for one asked for, which alone can be split */
  unsigned first;
};
_Static_assert(sizeof(struct origin) <= sizeof ((CUdevResource *)0)->_internal_padding, "fits the padding");

#define RESOURCE_MARK 0x5c51e500u

static struct origin origin_of(const CUdevResource *resource) {
  struct origin origin;
  memcpy(&origin, resource->_internal_padding, sizeof origin);
  return origin;
}

struct granularity {
  unsigned least, alignment;
};

static struct granularity granularity_of(const struct sg_card_info *info) {
  if (info->cc_major >= 9)
    return (struct granularity){8, 8};
  if (info->cc_major == 8)
    return (struct granularity){4, 2};
  return info->cc_major == 7 ? (struct granularity){2, 2} : (struct granularity){1, 1};
}

static void fill(CUdevResource *resource, const struct origin *origin, unsigned sm_count, struct granularity grain) {
  memset(resource, 0, sizeof *resource);
  if (sm_count == 0)
    return; /* CU_DEV_RESOURCE_TYPE_INVALID */
  resource->type = CU_DEV_RESOURCE_TYPE_SM;
  resource->sm.smCount = sm_count;
  resource->sm.minSmPartitionSize = grain.least;
  resource->sm.smCoscheduledAlignment = grain.alignment;
  memcpy(resource->_internal_padding, origin, sizeof *origin);
}

static CUresult check_type(CUdevResourceType type) {
  if (type == CU_DEV_RESOURCE_TYPE_WORKQUEUE || type == CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG)
    return CUDA_ERROR_NOT_SUPPORTED;
  return type == CU_DEV_RESOURCE_TYPE_SM ? CUDA_SUCCESS : CUDA_ERROR_INVALID_RESOURCE_TYPE;
}

CUresult sim_resource_get(int card, unsigned sm_count, CUdevResourceType type, CUdevResource *resource) {
  const struct sg_card_info *info = sg_card(card);
  const struct origin origin = {.mark = RESOURCE_MARK, .card = card};
  CUresult result = resource ? check_type(type) : CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    fill(resource, &origin, sm_count ? sm_count : info->sm_count, granularity_of(info));
  return result;
}

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *resource, CUdevResourceType type) {
  int card;
  CUresult result = sim_device_card(device, &card);
  return result == CUDA_SUCCESS ? sim_resource_get(card, 0, type, resource) : result;
}

CUresult cuCtxGetDevResource(CUcontext hCtx, CUdevResource *resource, CUdevResourceType type) {
  CUcontext home, context;
  CUresult result = sim_home_of(hCtx, &home, &context);
  return result == CUDA_SUCCESS ? sim_resource_get(context->card, home->sm_count, type, resource) : result;
}

static CUresult stream_resource(CUstream handle, CUdevResource *resource, CUdevResourceType type) {
  CUstream stream;
  CUresult result = sim_stream_get(handle, &stream);
  if (result != CUDA_SUCCESS)
    return result;
  if (type == CU_DEV_RESOURCE_TYPE_SM)
    result = sim_resource_get(stream->context->card, stream->home->sm_count, type, resource);
  else
    result = CUDA_ERROR_INVALID_RESOURCE_TYPE;
  sim_stream_put_back(stream);
  return result;
}

CUresult cuStreamGetDevResource(CUstream hStream, CUdevResource *resource, CUdevResourceType type) {
  return stream_resource(sim_null_legacy(hStream), resource, type);
}
CUresult cuStreamGetDevResource_ptsz(CUstream hStream, CUdevResource *resource, CUdevResourceType type) {
  return stream_resource(sim_null_thread(hStream), resource, type);
}

/* ---- splitting ---- */

/* A resource that came from here; *origin tells where exactly. */
static CUresult check_resource(const CUdevResource *resource, struct origin *origin) {
  CUresult result = check_type(resource->type);
  if (result != CUDA_SUCCESS)
    return result;
  *origin = origin_of(resource);
  return origin->mark == RESOURCE_MARK ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* The size of the groups of a split; 0 when the flags do not fit the card. Clusters have at most 16
 * blocks, each on an SM of its own. */
static unsigned group_size(const struct sg_card_info *info, unsigned flags, unsigned least_count,
                           struct granularity *grain) {
  *grain = granularity_of(info);
  if (flags == CU_DEV_SM_RESOURCE_SPLIT_MAX_POTENTIAL_CLUSTER_SIZE && info->cc_major >= 9)
    *grain = (struct granularity){16, 16};
  else if (flags == CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING)
    *grain = info->cc_major >= 7 ? (struct granularity){2, 2} : (struct granularity){1, 1};
  else if (flags != 0)
    return 0;
  unsigned size = (least_count + grain->alignment - 1) / grain->alignment * grain->alignment;
  return size > grain->least ? size : grain->least;
}

CUresult cuDevSmResourceSplitByCount(CUdevResource *result, unsigned int *nbGroups, const CUdevResource *input,
                                     CUdevResource *remainder, unsigned int flags, unsigned int minCount) {
  struct origin origin;
  struct granularity grain;
  CUresult checked = sim_ready();
  if (checked != CUDA_SUCCESS)
    return checked;
  if (!nbGroups || !input || (result && *nbGroups == 0))
    return CUDA_ERROR_INVALID_VALUE;
  checked = check_resource(input, &origin);
  if (checked != CUDA_SUCCESS)
    return checked;
  const unsigned available = input->sm.smCount;
  const unsigned size = minCount <= available ? group_size(sg_card(origin.card), flags, minCount, &grain) : 0;
  if (size == 0)
    return CUDA_ERROR_INVALID_VALUE;
  if (origin.split != 0 || size > available)
    return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  unsigned groups = available / size;
  if (result) {
    groups = groups < *nbGroups ? groups : *nbGroups;
    origin.split = sim_next_id();
    for (unsigned i = 0; i < groups; i++, origin.first += size)
      fill(&result[i], &origin, size, grain);
    if (remainder)
      fill(remainder, &origin, available - groups * size, grain);
  }
  *nbGroups = groups;
  return CUDA_SUCCESS;
}

/* ---- descriptors ---- */

static CUdevResourceDesc descriptors;

bool sim_descriptor_valid(CUdevResourceDesc descriptor) {
  sim_lock();
  CUdevResourceDesc each = descriptors;
  while (each && each != descriptor)
    each = each->next;
  sim_unlock();
  return each != NULL;
}

static CUresult sum_up(const CUdevResource *resources, unsigned count, struct CUdevResourceDesc_st *sum) {
  struct origin first = {0}, origin, other;
  for (unsigned i = 0; i < count; i++) {
    CUresult result = check_resource(&resources[i], &origin);
    if (result != CUDA_SUCCESS)
      return result;
    if (i == 0)
      first = origin;
    if (origin.card != first.card || origin.split != first.split || (count > 1 && origin.split == 0))
      return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    for (unsigned j = 0; j < i; j++) { /* the same group twice */
      other = origin_of(&resources[j]);
      if (other.first == origin.first)
        return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
    }
    sum->sm_count += resources[i].sm.smCount;
  }
  sum->card = first.card;
  return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *phDesc, CUdevResource *resources, unsigned int nbResources) {
  struct CUdevResourceDesc_st sum = {0};
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  if (!phDesc || !resources || nbResources == 0)
    return CUDA_ERROR_INVALID_VALUE;
  result = sum_up(resources, nbResources, &sum);
  if (result != CUDA_SUCCESS)
    return result;
  CUdevResourceDesc fresh = malloc(sizeof *fresh);
  if (!fresh)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *fresh = sum;
  sim_lock();
  fresh->next = descriptors;
  descriptors = fresh;
  sim_unlock();
  *phDesc = fresh;
  return CUDA_SUCCESS;
}
