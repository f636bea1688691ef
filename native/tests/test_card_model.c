// sources: simgpu/card_model.c
// The time model of kernels: a pure function of card, grid and block.
#include <stdio.h>
#include <stdlib.h>

#include "../simgpu/card.h"

static const struct sg_card_info card = {
    .sm_count = 10, .max_threads_per_sm = 1024, .launch_floor_ns = 2000, .block_ns = 10000};

static void expect(uint32_t grid_x, uint32_t grid_y, uint32_t grid_z, uint32_t block_x, uint32_t block_y, uint64_t wanted) {
  uint32_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, 1};
  uint64_t got = sg_kernel_ns(&card, grid, block);
  if (got == wanted) return;
  fprintf(stderr, "grid %ux%ux%u of %ux%u threads takes %llu ns, not %llu\n", grid_x, grid_y, grid_z, block_x, block_y,
          (unsigned long long)got, (unsigned long long)wanted);
  exit(1);
}

int main(void) {
  expect(1, 1, 1, 1, 1, 2000);                  /* never less than the floor */
  expect(1, 1, 1, 1024, 1, 10000);              /* one full block on one of ten SMs */
  expect(10, 1, 1, 1024, 1, 10000);             /* one on each */
  expect(11, 1, 1, 1024, 1, 20000);             /* a second wave */
  expect(10, 10, 1, 32, 32, 100000);            /* dimensions multiply */
  expect(40, 1, 1, 256, 1, 10000);              /* four of 256 threads fill an SM */
  expect(41, 1, 1, 256, 1, 12500);              /* and a fifth runs alone after them */
  expect(10, 1, 1, 33, 1, 2000);                /* 33 threads are two warps: 625 ns, below the floor */
  expect(320, 1, 1, 33, 1, 20000);              /* of which 16 fit: two waves of 16 blocks of two warps */
  expect(0xffffffff, 0xffffffff, 0xffffffff, 1024, 1, UINT64_MAX); /* saturates, does not wrap */
  return 0;
}
