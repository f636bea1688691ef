/* first.c - prints when its first instruction ran, by the clock that all processes share, in nanoseconds,
 * and how many of the shim's shared files it has mapped. Never touches CUDA. */
#include <stdio.h>
#include <string.h>
#include <time.h>

int main(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  char line[4096];
  int regions = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) regions += strstr(line, "/usage") || strstr(line, "/grants");
  if (maps) fclose(maps);
  printf("%lld %d\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec, regions);
  return 0;
}
