/* cuda_pool_space.c - what a memory pool holds: chunks of the card's memory, cut into pieces.
 *
 * A piece is FREE, LIVE, or FREEING: cuMemFreeAsync was called, but the stream has not got there yet.
 * A FREEING piece may be given out again at once to work in the stream that frees it (the order of the
 * stream keeps the two apart). When the card has nothing else, other streams get it too, and wait for
 * the one that frees it (CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES). LIVE and FREEING pieces
 * are blocks in the index of addresses, since queued work still uses them.
 */
#include <stdlib.h>

#include "cuda_pool.h"

#define PIECE_BYTES 512u /* pieces are multiples of this */

enum piece_state { PIECE_FREE, PIECE_LIVE, PIECE_FREEING };

/* One cuMemFreeAsync on its way through a stream; ends all pieces that still carry it. The stream is
 * past it when `fence` has reached `value` (0: not known). */
struct pool_ticket {
  uint64_t id;
  CUmemoryPool pool;
  sg_fence fence;
  uint64_t value;
};

struct pool_piece {
  struct pool_hold hold; /* hold.block.address and .bytes say which part, in every state */
  enum piece_state state;
  struct pool_chunk *chunk;
  CUcontext context;          /* LIVE: of the stream that it was allocated for */
  uint64_t span;              /* bytes taken, at least hold.block.bytes as asked for */
  uint64_t stream_id;         /* FREEING: of the stream that frees it */
  struct pool_ticket *ticket; /* FREEING */
  struct pool_piece *previous, *next; /* neighbours by address within the chunk */
};

struct pool_chunk {
  sg_phys object;
  uint64_t address, bytes;
  struct pool_piece *first;
  struct pool_chunk *next;
};

static uint64_t round_up(uint64_t bytes, uint64_t step) { return (bytes + step - 1) / step * step; }

static void count_used(CUmemoryPool pool, uint64_t bytes) {
  pool->used += bytes;
  if (pool->used > pool->used_high)
    pool->used_high = pool->used;
}

/* ---- pieces ---- */

static struct pool_piece *piece_new(struct pool_chunk *chunk, uint64_t address, uint64_t span) {
  struct pool_piece *piece = calloc(1, sizeof *piece);
  if (piece) {
    piece->chunk = chunk;
    piece->span = span;
    piece->hold.kind = POOL_HOLD_PIECE;
    piece->hold.block.address = address;
    piece->hold.block.bytes = span;
  }
  return piece;
}

/* Enters a LIVE or FREEING piece into the index of addresses. */
static CUresult piece_enter(CUmemoryPool pool, struct pool_piece *piece, uint64_t bytes) {
  struct sim_block *block = &piece->hold.block;
  const uint64_t address = block->address;
  *block = (struct sim_block){
      .address = address,
      .bytes = bytes,
      .kind = SIM_MEMORY_POOL,
      .card = pool->card,
      .object = piece->chunk->object,
      .offset = address - piece->chunk->address,
      .accessible = true,
      .owner = pool,
  };
  return sim_block_insert(block);
}

/* Shortens the piece to `span`; the rest becomes a piece of the same state behind it. */
static CUresult piece_split(CUmemoryPool pool, struct pool_piece *piece, uint64_t span) {
  if (span == piece->span)
    return CUDA_SUCCESS;
  struct pool_piece *rest = piece_new(piece->chunk, piece->hold.block.address + span, piece->span - span);
  if (rest == NULL)
    return CUDA_ERROR_OUT_OF_MEMORY;
  rest->state = piece->state;
  rest->ticket = piece->ticket;
  rest->stream_id = piece->stream_id;
  if (piece->state == PIECE_FREEING) {
    sim_block_remove(&piece->hold.block);
    CUresult result = piece_enter(pool, rest, rest->span);
    piece->hold.block.bytes = span;
    if (result == CUDA_SUCCESS)
      result = piece_enter(pool, piece, span);
    pool->live++;
    if (result != CUDA_SUCCESS)
      return result; /* no host memory: the parts stay FREEING and end with their ticket */
  }
  piece->span = span;
  piece->hold.block.bytes = span;
  rest->previous = piece;
  rest->next = piece->next;
  if (rest->next)
    rest->next->previous = rest;
  piece->next = rest;
  return CUDA_SUCCESS;
}

/* Makes one piece of this one and the FREE one behind it. */
static void piece_absorb_next(struct pool_piece *piece) {
  struct pool_piece *next = piece->next;
  piece->span += next->span;
  piece->hold.block.bytes = piece->span;
  piece->next = next->next;
  if (piece->next)
    piece->next->previous = piece;
  free(next);
}

/* LIVE or FREEING becomes FREE. Answers the piece that it is part of from then on. */
static struct pool_piece *piece_end(CUmemoryPool pool, struct pool_piece *piece) {
  sim_block_remove(&piece->hold.block);
  pool->used -= piece->span;
  piece->state = PIECE_FREE;
  piece->ticket = NULL;
  piece->hold.block.bytes = piece->span;
  if (piece->next && piece->next->state == PIECE_FREE)
    piece_absorb_next(piece);
  if (piece->previous && piece->previous->state == PIECE_FREE) {
    piece = piece->previous;
    piece_absorb_next(piece);
  }
  return piece;
}

/* ---- chunks ---- */

static CUresult chunk_new(CUmemoryPool pool, uint64_t bytes, struct pool_piece **piece) {
  if (pool->properties.maxSize != 0 && pool->reserved + bytes > pool->properties.maxSize)
    return CUDA_ERROR_OUT_OF_MEMORY;
  struct pool_chunk *chunk = calloc(1, sizeof *chunk);
  struct pool_piece *whole = chunk ? piece_new(chunk, 0, bytes) : NULL;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  if (whole)
    result = sim_segment_create(pool->card, bytes, false, &chunk->object, &chunk->address);
  if (result != CUDA_SUCCESS) {
    free(whole);
    free(chunk);
    return result;
  }
  chunk->bytes = bytes;
  chunk->first = whole;
  whole->hold.block.address = chunk->address;
  chunk->next = pool->chunks;
  pool->chunks = chunk;
  pool->reserved += bytes;
  if (pool->reserved > pool->reserved_high)
    pool->reserved_high = pool->reserved;
  *piece = whole;
  return CUDA_SUCCESS;
}

static bool chunk_unused(const struct pool_chunk *chunk) {
  return chunk->first->state == PIECE_FREE && chunk->first->next == NULL;
}

void pool_trim(CUmemoryPool pool, uint64_t keep_bytes) {
  for (struct pool_chunk **link = &pool->chunks; *link && pool->reserved > keep_bytes;) {
    struct pool_chunk *chunk = *link;
    if (!chunk_unused(chunk)) {
      link = &chunk->next;
      continue;
    }
    *link = chunk->next;
    pool->reserved -= chunk->bytes;
    sim_segment_destroy(chunk->object, chunk->address, chunk->bytes);
    free(chunk->first);
    free(chunk);
  }
}

/* ---- allocation ---- */

static bool usable_at_once(const struct pool_piece *piece, uint64_t stream_id) {
  return piece->state == PIECE_FREE || (piece->state == PIECE_FREEING && piece->stream_id == stream_id);
}

static bool usable_after_a_wait(const struct pool_piece *piece, uint64_t stream_id) {
  return usable_at_once(piece, stream_id) || (piece->state == PIECE_FREEING && piece->ticket->value != 0);
}

/* The smallest piece that holds `span` and is usable for work in the stream. */
static struct pool_piece *find_room(CUmemoryPool pool, uint64_t stream_id, uint64_t span,
                                    bool (*usable)(const struct pool_piece *, uint64_t stream_id)) {
  struct pool_piece *best = NULL;
  for (struct pool_chunk *chunk = pool->chunks; chunk; chunk = chunk->next)
    for (struct pool_piece *piece = chunk->first; piece; piece = piece->next)
      if (piece->span >= span && (best == NULL || piece->span < best->span) && usable(piece, stream_id))
        best = piece;
  return best;
}

static CUresult make_room(CUmemoryPool pool, uint64_t span, struct pool_piece **piece) {
  const uint64_t least = round_up(span, SG_GRANULE_BYTES);
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  if (least < POOL_CHUNK_BYTES)
    result = chunk_new(pool, POOL_CHUNK_BYTES, piece);
  if (result == CUDA_ERROR_OUT_OF_MEMORY)
    result = chunk_new(pool, least, piece);
  return result;
}

/* `after` gets the free that the stream has to wait for first; its value is 0 for none. */
static CUresult take_locked(CUmemoryPool pool, CUstream stream, uint64_t bytes, CUdeviceptr *address,
                            struct pool_ticket *after) {
  const uint64_t span = round_up(bytes, PIECE_BYTES);
  CUresult result = CUDA_SUCCESS;
  struct pool_piece *piece = find_room(pool, stream->id, span, usable_at_once);
  if (piece == NULL) {
    result = make_room(pool, span, &piece);
    if (result == CUDA_ERROR_OUT_OF_MEMORY && pool->internal_dependencies)
      piece = find_room(pool, stream->id, span, usable_after_a_wait);
    if (piece)
      result = CUDA_SUCCESS;
  }
  if (result == CUDA_SUCCESS)
    result = piece_split(pool, piece, span);
  if (result != CUDA_SUCCESS)
    return result;
  if (piece->state == PIECE_FREEING) {
    if (piece->stream_id != stream->id)
      *after = *piece->ticket;
    sim_block_remove(&piece->hold.block);
    pool->used -= span;
    pool->live--;
  }
  piece->state = PIECE_FREE;
  piece->ticket = NULL;
  result = piece_enter(pool, piece, bytes);
  if (result != CUDA_SUCCESS)
    return result;
  piece->state = PIECE_LIVE;
  piece->context = stream->context;
  count_used(pool, span);
  pool->live++;
  *address = piece->hold.block.address;
  return CUDA_SUCCESS;
}

static CUresult wait_in_stream(CUstream stream, const struct pool_ticket *after) {
  const struct sg_item wait = {.op = SG_OP_WAIT, .fence = after->fence, .value = after->value};
  CUresult result = sim_stream_begin(stream);
  if (result != CUDA_SUCCESS)
    return result;
  result = sim_stream_item(stream, &wait);
  atomic_fetch_add(&stream->puts, 1);
  sim_stream_end(stream);
  return result;
}

CUresult pool_take(CUmemoryPool pool, CUstream stream, uint64_t bytes, CUdeviceptr *address) {
  struct pool_ticket after = {0};
  if (bytes > UINT64_MAX / 2)
    return CUDA_ERROR_OUT_OF_MEMORY;
  pool_lock();
  CUresult result = pool_check(pool);
  if (result == CUDA_SUCCESS && pool->imported)
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS)
    result = take_locked(pool, stream, bytes, address, &after);
  pool_unlock();
  return result == CUDA_SUCCESS && after.value ? wait_in_stream(stream, &after) : result;
}

/* ---- the end of an allocation ---- */

static CUmemoryPool pool_of(const struct pool_piece *piece) { return piece->hold.block.owner; }

CUresult pool_free_now(struct pool_hold *hold) {
  struct pool_piece *piece = SIM_CONTAINER_OF(hold, struct pool_piece, hold);
  CUmemoryPool pool = pool_of(piece);
  if (piece->state != PIECE_LIVE)
    return CUDA_ERROR_INVALID_VALUE; /* freed twice */
  pool->live--;
  piece_end(pool, piece);
  pool_end_if_unused(pool);
  return CUDA_SUCCESS;
}

static void end_ticket_pieces(struct pool_ticket *ticket) {
  CUmemoryPool pool = ticket->pool;
  for (struct pool_chunk *chunk = pool->chunks; chunk; chunk = chunk->next)
    for (struct pool_piece *piece = chunk->first; piece; piece = piece->next)
      if (piece->state == PIECE_FREEING && piece->ticket == ticket) {
        piece = piece_end(pool, piece);
        pool->live--;
      }
}

/* The stream has got to a cuMemFreeAsync. */
static void run_ticket(void *argument) {
  pool_lock();
  end_ticket_pieces(argument);
  pool_unlock();
}

/* Afterwards, or instead when the context has ended. */
static void drop_ticket(void *argument) {
  struct pool_ticket *ticket = argument;
  pool_lock();
  end_ticket_pieces(ticket);
  ticket->pool->live--;
  pool_end_if_unused(ticket->pool);
  pool_unlock();
  free(ticket);
}

/* The stream cannot take the ticket: its pieces are as they were. */
static void take_back_ticket(struct pool_ticket *ticket) {
  CUmemoryPool pool = ticket->pool;
  pool_lock();
  for (struct pool_chunk *chunk = pool->chunks; chunk; chunk = chunk->next)
    for (struct pool_piece *piece = chunk->first; piece; piece = piece->next)
      if (piece->state == PIECE_FREEING && piece->ticket == ticket) {
        piece->state = PIECE_LIVE;
        piece->ticket = NULL;
      }
  pool->live -= 2;
  pool_end_if_unused(pool);
  pool_unlock();
  free(ticket);
}

/* Where in the stream the ticket is, for those that have to wait for it. It may be over by now. */
static void mark_ticket(CUmemoryPool pool, uint64_t id, CUstream stream) {
  sg_fence fence;
  uint64_t value;
  atomic_fetch_add(&stream->puts, 1); /* the mark is to come behind the ticket */
  CUresult result = sim_stream_mark(stream, &fence, &value);
  pool_lock();
  for (struct pool_chunk *chunk = pool->chunks; chunk && result == CUDA_SUCCESS; chunk = chunk->next)
    for (struct pool_piece *piece = chunk->first; piece; piece = piece->next)
      if (piece->state == PIECE_FREEING && piece->ticket->id == id) {
        piece->ticket->fence = fence;
        piece->ticket->value = value;
      }
  pool->live--;
  pool_end_if_unused(pool);
  pool_unlock();
}

CUresult pool_free_later(struct pool_hold *hold, CUstream stream) {
  struct pool_piece *piece = SIM_CONTAINER_OF(hold, struct pool_piece, hold);
  struct pool_ticket *ticket = piece->state == PIECE_LIVE ? calloc(1, sizeof *ticket) : NULL;
  if (ticket == NULL) {
    bool twice = piece->state != PIECE_LIVE;
    pool_unlock();
    return twice ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY;
  }
  CUmemoryPool pool = pool_of(piece);
  const uint64_t id = sim_next_id();
  ticket->id = id;
  ticket->pool = pool;
  pool->live += 2; /* the ticket and its mark: the pool outlives both */
  piece->state = PIECE_FREEING;
  piece->stream_id = stream->id;
  piece->ticket = ticket;
  /* The stream may be full, and then waits for work that needs the pool. */
  pool_unlock();
  CUresult result = sim_stream_local(stream, SG_ENGINE_NONE, 0, run_ticket, drop_ticket, ticket);
  if (result != CUDA_SUCCESS)
    take_back_ticket(ticket);
  else
    mark_ticket(pool, id, stream);
  return result;
}

void pool_forget_context(CUmemoryPool pool, CUcontext context) {
  for (struct pool_chunk *chunk = pool->chunks; chunk; chunk = chunk->next)
    for (struct pool_piece *piece = chunk->first; piece; piece = piece->next)
      if (piece->state == PIECE_LIVE && piece->context == context) {
        piece = piece_end(pool, piece);
        pool->live--;
      }
}
