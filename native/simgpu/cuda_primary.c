/* cuda_primary.c - the primary context of each device, counted by its users. */
#include "cuda_internal.h"

#include "cuda_process.h"

struct primary {
  CUcontext context;
  unsigned users, flags;
};

/* Held while a primary context is made or ended, which may take long. */
static pthread_mutex_t primary_lock = PTHREAD_MUTEX_INITIALIZER;
static struct primary primaries[SG_MAX_CARDS]; /* by card */

CUresult sim_primary_retain(CUdevice device, CUcontext *context) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pthread_mutex_lock(&primary_lock);
  struct primary *primary = &primaries[card];
  if (!primary->context)
    result = sim_context_new(device, primary->flags, 3020, true, &primary->context);
  if (result == CUDA_SUCCESS) {
    primary->users++;
    *context = primary->context;
  }
  pthread_mutex_unlock(&primary_lock);
  return result;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) {
  return pctx ? sim_primary_retain(dev, pctx) : CUDA_ERROR_INVALID_VALUE;
}

static void end_primary(struct primary *primary) {
  sim_context_end(primary->context);
  primary->context = NULL;
  primary->users = 0;
}

CUresult sim_primary_release(CUdevice device) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pthread_mutex_lock(&primary_lock);
  struct primary *primary = &primaries[card];
  if (!primary->users)
    result = CUDA_ERROR_INVALID_CONTEXT;
  else if (primary->users == 1)
    end_primary(primary);
  else
    primary->users--;
  pthread_mutex_unlock(&primary_lock);
  return result;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev) { return sim_primary_release(dev); }
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) { return sim_primary_release(dev); }

static CUresult reset(CUdevice device) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  pthread_mutex_lock(&primary_lock);
  if (primaries[card].context)
    end_primary(&primaries[card]);
  pthread_mutex_unlock(&primary_lock);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset(CUdevice dev) { return reset(dev); }
CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) { return reset(dev); }

/* Before CUDA 11.0 the flags of an active primary context could not be changed. */
static CUresult set_flags(CUdevice device, unsigned flags, bool while_active) {
  int card;
  CUresult result = sim_device_card(device, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (flags & ~(unsigned)CU_CTX_FLAGS_MASK)
    return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&primary_lock);
  struct primary *primary = &primaries[card];
  if (primary->context && !while_active && (flags | CU_CTX_MAP_HOST) != primary->context->flags) {
    result = CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE;
  } else {
    primary->flags = flags;
    if (primary->context)
      primary->context->flags = flags | CU_CTX_MAP_HOST;
  }
  pthread_mutex_unlock(&primary_lock);
  return result;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags) { return set_flags(dev, flags, false); }
CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) { return set_flags(dev, flags, true); }

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active) {
  int card;
  CUresult result = sim_device_card(dev, &card);
  if (result != CUDA_SUCCESS)
    return result;
  if (!flags || !active)
    return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&primary_lock);
  *flags = primaries[card].flags;
  *active = primaries[card].context != NULL;
  pthread_mutex_unlock(&primary_lock);
  return CUDA_SUCCESS;
}
