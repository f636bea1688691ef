/* cuda_copy.c - what copies and fills do to memory, and what they cost.
 *
 * A copy is two boxes of rows. It is done by the worker thread when the card gets there, at the end
 * of its modelled time: bytes over the PCIe bandwidth between host and card, twice the bytes over the
 * memory bandwidth within a card. Copies between host and card use the card's two copy engines;
 * copies within a card and fills run on its compute engine, as kernels of the driver.
 */
#include "cuda_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_process.h"

struct side { /* one end of a copy */
  bool host; /* reached over PCIe */
  bool pageable;
  char *start;
  uint64_t pitch, slice_pitch;
  int card;
};

struct boxes {
  struct side source, destination;
  uint64_t width, rows, slices; /* width in bytes */
  void *staging;
};

/* ---- from a description to memory ---- */

struct place { /* the fields of CUDA_MEMCPY3D_PEER that describe one end */
  CUmemorytype type;
  const void *host;
  CUdeviceptr device;
  CUarray array;
  uint64_t x, y, z, pitch, height;
};

static struct place source_of(const CUDA_MEMCPY3D_PEER *c) {
  return (struct place){c->srcMemoryType, c->srcHost, c->srcDevice, c->srcArray, c->srcXInBytes,
                        c->srcY, c->srcZ, c->srcPitch, c->srcHeight};
}

static struct place destination_of(const CUDA_MEMCPY3D_PEER *c) {
  return (struct place){c->dstMemoryType, c->dstHost, c->dstDevice, c->dstArray, c->dstXInBytes,
                        c->dstY, c->dstZ, c->dstPitch, c->dstHeight};
}

static CUresult resolve_array(const struct place *place, const struct boxes *boxes, struct side *side) {
  CUarray array = place->array;
  if (!array || array->magic != SIM_MAGIC_ARRAY)
    return CUDA_ERROR_INVALID_HANDLE;
  if (!array->block || place->x + boxes->width > array->width_bytes || place->y + boxes->rows > array->rows ||
      place->z + boxes->slices > array->slices)
    return CUDA_ERROR_INVALID_VALUE;
  side->pitch = array->pitch;
  side->slice_pitch = array->slice_pitch;
  side->card = array->card;
  side->start = (char *)sim_shadow(array->block->address) + array->base_offset + place->z * array->slice_pitch +
                place->y * array->pitch + place->x;
  return CUDA_SUCCESS;
}

static bool is_card_memory(uint64_t address, int *card) {
  sim_lock();
  const struct sim_block *block = sim_is_device_address(address) ? sim_block_find(address) : NULL;
  if (block)
    *card = block->card;
  sim_unlock();
  return block != NULL;
}

static CUresult resolve_linear(const struct place *place, const struct boxes *boxes, bool write, struct side *side) {
  bool host = place->type == CU_MEMORYTYPE_HOST;
  uint64_t base = host ? (uint64_t)(uintptr_t)place->host : place->device;
  uint64_t pitch = place->pitch ? place->pitch : place->x + boxes->width;
  uint64_t height = place->height ? place->height : place->y + boxes->rows;
  if (pitch < place->x + boxes->width || height < place->y + boxes->rows)
    return CUDA_ERROR_INVALID_VALUE;
  side->pitch = pitch;
  side->slice_pitch = pitch * height;
  uint64_t start = base + place->z * side->slice_pitch + place->y * pitch + place->x;
  uint64_t bytes = (boxes->slices - 1) * side->slice_pitch + (boxes->rows - 1) * pitch + boxes->width;
  void *alias;
  CUresult result = sim_resolve(start, bytes, write, &alias, &side->pageable);
  side->start = alias;
  side->host = !is_card_memory(start, &side->card);
  return base ? result : CUDA_ERROR_INVALID_VALUE;
}

static CUresult resolve(const struct place *place, const struct boxes *boxes, bool write, struct side *side) {
  switch (place->type) {
  case CU_MEMORYTYPE_ARRAY:
    return resolve_array(place, boxes, side);
  case CU_MEMORYTYPE_HOST:
  case CU_MEMORYTYPE_DEVICE:
  case CU_MEMORYTYPE_UNIFIED:
    return resolve_linear(place, boxes, write, side);
  default:
    return CUDA_ERROR_INVALID_VALUE;
  }
}

static CUresult find_boxes(const struct sim_copy *copy, struct boxes *boxes) {
  const CUDA_MEMCPY3D_PEER *c = &copy->description;
  const struct place source = source_of(c), destination = destination_of(c);
  *boxes = (struct boxes){.width = c->WidthInBytes, .rows = c->Height, .slices = c->Depth, .staging = copy->staging};
  if (!boxes->width || !boxes->rows || !boxes->slices)
    return CUDA_SUCCESS;
  CUresult result = resolve(&source, boxes, false, &boxes->source);
  return result == CUDA_SUCCESS ? resolve(&destination, boxes, true, &boxes->destination) : result;
}

static uint64_t bytes_of(const struct boxes *boxes) { return boxes->width * boxes->rows * boxes->slices; }

CUresult sim_copy_check(const struct sim_copy *copy) {
  struct boxes boxes;
  return find_boxes(copy, &boxes);
}

CUresult sim_copy_hosts(const struct sim_copy *copy, struct sim_copy_hosts *hosts) {
  struct boxes boxes;
  CUresult result = find_boxes(copy, &boxes);
  *hosts = (struct sim_copy_hosts){boxes.source.host, boxes.destination.host, boxes.source.pageable,
                                   boxes.destination.pageable, bytes_of(&boxes)};
  return result;
}

/* ---- effects ---- */

static void free_copy(void *argument) {
  struct boxes *boxes = argument;
  free(boxes->staging);
  free(boxes);
}

static void run_copy(void *argument) {
  const struct boxes *boxes = argument;
  const struct side *from = &boxes->source, *to = &boxes->destination;
  for (uint64_t z = 0; z < boxes->slices; z++)
    for (uint64_t y = 0; y < boxes->rows; y++)
      memmove(to->start + z * to->slice_pitch + y * to->pitch,
              from->start + z * from->slice_pitch + y * from->pitch, boxes->width);
}

static uint64_t ns_for(uint64_t bytes, uint64_t bytes_per_s) {
  return bytes_per_s ? (uint64_t)((double)bytes / (double)bytes_per_s * 1e9) : 0;
}

/* Rows that follow each other without gaps are one long row. */
static void flatten(struct boxes *boxes) {
  const struct side *from = &boxes->source, *to = &boxes->destination;
  if (from->pitch == boxes->width && to->pitch == boxes->width &&
      (boxes->slices == 1 || (from->slice_pitch == boxes->width * boxes->rows && to->slice_pitch == from->slice_pitch))) {
    boxes->width = bytes_of(boxes);
    boxes->rows = boxes->slices = 1;
  }
}

CUresult sim_copy_put(CUstream stream, const struct sim_copy *copy) {
  const struct sg_card_info *info = sg_card(stream->context->card);
  struct boxes boxes;
  CUresult result = find_boxes(copy, &boxes);
  if (result != CUDA_SUCCESS || bytes_of(&boxes) == 0)
    return result;
  uint64_t bytes = bytes_of(&boxes);
  bool in = boxes.source.host && !boxes.destination.host, out = !boxes.source.host && boxes.destination.host;
  bool across = !boxes.source.host && !boxes.destination.host && boxes.source.card != boxes.destination.card;
  enum sg_engine engine = in ? SG_ENGINE_COPY_IN : out || across ? SG_ENGINE_COPY_OUT : SG_ENGINE_COMPUTE;
  uint64_t duration = ns_for(bytes, info->pcie_bytes_per_s);
  if (engine == SG_ENGINE_COMPUTE)
    duration = ns_for(2 * bytes, info->memory_bytes_per_s);
  if (boxes.source.host && boxes.destination.host)
    engine = SG_ENGINE_NONE;
  flatten(&boxes);
  struct boxes *argument = malloc(sizeof *argument);
  if (!argument)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *argument = boxes;
  result = sim_stream_local(stream, engine, duration, run_copy, free_copy, argument);
  if (result != CUDA_SUCCESS)
    free(argument);
  return result;
}

/* ---- fills ---- */

struct fill {
  char *start;
  uint64_t pitch, width, rows;
  unsigned value, element_bytes;
  bool on_card;
};

static void fill_row(char *row, const struct fill *fill) {
  if (fill->element_bytes == 1) {
    memset(row, (int)fill->value, fill->width);
  } else if (fill->element_bytes == 2) {
    for (uint64_t i = 0; i < fill->width; i++)
      ((uint16_t *)(void *)row)[i] = (uint16_t)fill->value;
  } else {
    for (uint64_t i = 0; i < fill->width; i++)
      ((uint32_t *)(void *)row)[i] = fill->value;
  }
}

/* Zeros of whole pages of card memory are holes in its file: filling a card with them costs nothing. */
static bool punch_zeros(const struct fill *fill) {
  uint64_t bytes = fill->width * fill->element_bytes, page = SG_GRANULE_BYTES;
  uint64_t first = ((uint64_t)(uintptr_t)fill->start + page - 1) / page * page;
  uint64_t end = ((uint64_t)(uintptr_t)fill->start + bytes) / page * page;
  if (!fill->on_card || fill->value || fill->rows != 1 || first >= end)
    return false;
  if (madvise((void *)(uintptr_t)first, end - first, MADV_REMOVE) != 0)
    return false;
  memset(fill->start, 0, first - (uint64_t)(uintptr_t)fill->start);
  memset((void *)(uintptr_t)end, 0, (uint64_t)(uintptr_t)fill->start + bytes - end);
  return true;
}

static void run_fill(void *argument) {
  const struct fill *fill = argument;
  if (punch_zeros(fill))
    return;
  for (uint64_t y = 0; y < fill->rows; y++)
    fill_row(fill->start + y * fill->pitch, fill);
}

static CUresult find_fill(const struct sim_memset *set, struct fill *fill) {
  uint64_t row = set->width * set->element_bytes;
  *fill = (struct fill){.pitch = set->pitch ? set->pitch : row, .width = set->width, .rows = set->height,
                        .value = set->value, .element_bytes = set->element_bytes,
                        .on_card = sim_is_device_address(set->destination)};
  if (set->element_bytes != 1 && set->element_bytes != 2 && set->element_bytes != 4)
    return CUDA_ERROR_INVALID_VALUE;
  if (!set->width || !set->height)
    return CUDA_SUCCESS;
  if (set->destination % set->element_bytes || (set->height > 1 && fill->pitch % set->element_bytes) ||
      (set->height > 1 && fill->pitch < row))
    return CUDA_ERROR_INVALID_VALUE;
  void *alias;
  bool pageable;
  uint64_t bytes = (set->height - 1) * fill->pitch + row;
  CUresult result = sim_resolve(set->destination, bytes, true, &alias, &pageable);
  fill->start = alias;
  return result == CUDA_SUCCESS && pageable ? CUDA_ERROR_INVALID_VALUE : result;
}

CUresult sim_memset_check(const struct sim_memset *set) {
  struct fill fill;
  return find_fill(set, &fill);
}

CUresult sim_memset_put(CUstream stream, const struct sim_memset *set) {
  struct fill fill;
  CUresult result = find_fill(set, &fill);
  if (result != CUDA_SUCCESS || !fill.width || !fill.rows)
    return result;
  struct fill *argument = malloc(sizeof *argument);
  if (!argument)
    return CUDA_ERROR_OUT_OF_MEMORY;
  *argument = fill;
  uint64_t bytes = fill.width * fill.rows * fill.element_bytes;
  uint64_t duration = ns_for(bytes, sg_card(stream->context->card)->memory_bytes_per_s);
  result = sim_stream_local(stream, SG_ENGINE_COMPUTE, duration, run_fill, free, argument);
  if (result != CUDA_SUCCESS)
    free(argument);
  return result;
}
