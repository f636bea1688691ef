/* card_model.c - how long a kernel takes on a simulated card. Pure. */
#include "card.h"

static uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

/* a * b, or UINT64_MAX when that does not fit. */
static uint64_t saturating_product(uint64_t a, uint64_t b) {
  uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

uint64_t sg_kernel_ns(const struct sg_card_info *card, const uint32_t grid[3], const uint32_t block[3]) {
  uint64_t blocks = saturating_product(saturating_product(grid[0], grid[1]), grid[2]);
  uint64_t threads = saturating_product(saturating_product(block[0], block[1]), block[2]);
  if (threads == 0) threads = 1;
  uint64_t warps = ceil_div(threads, 32);
  uint64_t resident = card->max_threads_per_sm / 32 / warps; /* blocks that fit one SM by threads */
  if (resident == 0) resident = 1;
  /* An SM that has fewer blocks than fit takes less time for its wave. */
  uint64_t per_sm = ceil_div(blocks, card->sm_count);
  uint64_t waves = per_sm / resident, rest = per_sm % resident;
  uint64_t full_ns = saturating_product(card->block_ns, resident * warps) / 32;
  uint64_t duration = saturating_product(waves, full_ns);
  uint64_t last_ns = saturating_product(card->block_ns, saturating_product(rest, warps)) / 32;
  if (__builtin_add_overflow(duration, last_ns, &duration)) duration = UINT64_MAX;
  return duration > card->launch_floor_ns ? duration : card->launch_floor_ns;
}
