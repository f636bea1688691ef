/* cuda_texture.c - texture and surface objects: handles with descriptors, checked and given back. No
 * kernel of the simulated card samples them.
 */
#include <stdlib.h>

#include "cuda_internal.h"

struct texture { /* or a surface */
  uint64_t handle;
  uint32_t magic;
  CUDA_RESOURCE_DESC resource;
  CUDA_TEXTURE_DESC description;
  CUDA_RESOURCE_VIEW_DESC view;
  bool has_view;
  struct sim_owned owned;
  struct texture *next;
};

static pthread_mutex_t textures_lock = PTHREAD_MUTEX_INITIALIZER;
static struct texture *textures;

static void destroy_texture(struct sim_owned *owned) {
  struct texture *texture = SIM_CONTAINER_OF(owned, struct texture, owned);
  pthread_mutex_lock(&textures_lock);
  struct texture **link = &textures;
  while (*link != texture)
    link = &(*link)->next;
  *link = texture->next;
  pthread_mutex_unlock(&textures_lock);
  free(texture);
}

/* Found, and locked: the caller unlocks. NULL, unlocked, when the handle is none. */
static struct texture *find_locked(uint64_t handle, enum sim_magic magic) {
  pthread_mutex_lock(&textures_lock);
  struct texture *each = textures;
  while (each && !(each->handle == handle && each->magic == magic))
    each = each->next;
  if (each == NULL)
    pthread_mutex_unlock(&textures_lock);
  return each;
}

static CUresult check_memory(CUdeviceptr address, size_t bytes) {
  void *alias;
  return sim_resolve(address, bytes, false, &alias, NULL);
}

static CUresult check_resource(const CUDA_RESOURCE_DESC *resource) {
  switch (resource->resType) {
  case CU_RESOURCE_TYPE_ARRAY:
    return resource->res.array.hArray && resource->res.array.hArray->magic == SIM_MAGIC_ARRAY ? CUDA_SUCCESS
                                                                                              : CUDA_ERROR_INVALID_HANDLE;
  case CU_RESOURCE_TYPE_MIPMAPPED_ARRAY: /* every object of the driver begins with its magic */
    return resource->res.mipmap.hMipmappedArray &&
                   *(const uint32_t *)resource->res.mipmap.hMipmappedArray == SIM_MAGIC_MIPMAP
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_HANDLE;
  case CU_RESOURCE_TYPE_LINEAR:
    return resource->res.linear.sizeInBytes ? check_memory(resource->res.linear.devPtr, resource->res.linear.sizeInBytes)
                                            : CUDA_ERROR_INVALID_VALUE;
  case CU_RESOURCE_TYPE_PITCH2D:
    if (resource->res.pitch2D.width == 0 || resource->res.pitch2D.height == 0 || resource->res.pitch2D.pitchInBytes == 0)
      return CUDA_ERROR_INVALID_VALUE;
    return check_memory(resource->res.pitch2D.devPtr,
                        (resource->res.pitch2D.height - 1) * resource->res.pitch2D.pitchInBytes + 1);
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

static CUresult create(const struct texture *from, uint64_t *handle) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result == CUDA_SUCCESS)
    result = check_resource(&from->resource);
  if (result != CUDA_SUCCESS)
    return result;
  struct texture *fresh = malloc(sizeof *fresh);
  if (fresh == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *fresh = *from;
  fresh->handle = sim_next_id();
  pthread_mutex_lock(&textures_lock);
  fresh->next = textures;
  textures = fresh;
  pthread_mutex_unlock(&textures_lock);
  sim_own(context, &fresh->owned, destroy_texture);
  *handle = fresh->handle;
  return CUDA_SUCCESS;
}

static CUresult destroy(uint64_t handle, enum sim_magic magic) {
  CUcontext context;
  CUresult result = sim_current(&context);
  if (result != CUDA_SUCCESS)
    return result;
  struct texture *texture = find_locked(handle, magic);
  if (texture == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_unlock(&textures_lock);
  if (sim_disown(&texture->owned))
    destroy_texture(&texture->owned);
  return CUDA_SUCCESS;
}

static CUresult get_resource(CUDA_RESOURCE_DESC *resource, uint64_t handle, enum sim_magic magic) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  struct texture *texture = resource ? find_locked(handle, magic) : NULL;
  if (texture == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *resource = texture->resource;
  pthread_mutex_unlock(&textures_lock);
  return CUDA_SUCCESS;
}

/* ---- textures ---- */

CUresult CUDAAPI cuTexObjectCreate(CUtexObject *pTexObject, const CUDA_RESOURCE_DESC *pResDesc,
                                   const CUDA_TEXTURE_DESC *pTexDesc, const CUDA_RESOURCE_VIEW_DESC *pResViewDesc) {
  uint64_t handle;
  if (pTexObject == NULL || pResDesc == NULL || pTexDesc == NULL || pResDesc->flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  struct texture from = {.magic = SIM_MAGIC_TEXTURE, .resource = *pResDesc, .description = *pTexDesc};
  if (pResViewDesc) { /* only arrays can be seen in another format */
    if (pResDesc->resType != CU_RESOURCE_TYPE_ARRAY && pResDesc->resType != CU_RESOURCE_TYPE_MIPMAPPED_ARRAY)
      return CUDA_ERROR_INVALID_VALUE;
    from.view = *pResViewDesc;
    from.has_view = true;
  }
  CUresult result = create(&from, &handle);
  if (result == CUDA_SUCCESS)
    *pTexObject = handle;
  return result;
}

CUresult CUDAAPI cuTexObjectDestroy(CUtexObject texObject) { return destroy(texObject, SIM_MAGIC_TEXTURE); }

CUresult CUDAAPI cuTexObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUtexObject texObject) {
  return get_resource(pResDesc, texObject, SIM_MAGIC_TEXTURE);
}

CUresult CUDAAPI cuTexObjectGetTextureDesc(CUDA_TEXTURE_DESC *pTexDesc, CUtexObject texObject) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  struct texture *texture = pTexDesc ? find_locked(texObject, SIM_MAGIC_TEXTURE) : NULL;
  if (texture == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  *pTexDesc = texture->description;
  pthread_mutex_unlock(&textures_lock);
  return CUDA_SUCCESS;
}

/* INVALID_VALUE when the texture has no view of its own. */
CUresult CUDAAPI cuTexObjectGetResourceViewDesc(CUDA_RESOURCE_VIEW_DESC *pResViewDesc, CUtexObject texObject) {
  CUresult result = sim_ready();
  if (result != CUDA_SUCCESS)
    return result;
  struct texture *texture = pResViewDesc ? find_locked(texObject, SIM_MAGIC_TEXTURE) : NULL;
  if (texture == NULL)
    return CUDA_ERROR_INVALID_VALUE;
  if (texture->has_view)
    *pResViewDesc = texture->view;
  else
    result = CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_unlock(&textures_lock);
  return result;
}

/* ---- surfaces: arrays that were made for it ---- */

CUresult CUDAAPI cuSurfObjectCreate(CUsurfObject *pSurfObject, const CUDA_RESOURCE_DESC *pResDesc) {
  uint64_t handle;
  if (pSurfObject == NULL || pResDesc == NULL || pResDesc->flags != 0 || pResDesc->resType != CU_RESOURCE_TYPE_ARRAY)
    return CUDA_ERROR_INVALID_VALUE;
  const struct texture from = {.magic = SIM_MAGIC_SURFACE, .resource = *pResDesc};
  CUresult result = check_resource(pResDesc);
  if (result == CUDA_SUCCESS && (pResDesc->res.array.hArray->descriptor.Flags & CUDA_ARRAY3D_SURFACE_LDST) == 0)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = create(&from, &handle);
  if (result == CUDA_SUCCESS)
    *pSurfObject = handle;
  return result;
}

CUresult CUDAAPI cuSurfObjectDestroy(CUsurfObject surfObject) { return destroy(surfObject, SIM_MAGIC_SURFACE); }

CUresult CUDAAPI cuSurfObjectGetResourceDesc(CUDA_RESOURCE_DESC *pResDesc, CUsurfObject surfObject) {
  return get_resource(pResDesc, surfObject, SIM_MAGIC_SURFACE);
}
