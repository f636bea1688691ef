/* image.h - whether the programs of a container's image can load the shim. */
#ifndef CGPU_PROGRAMS_IMAGE_H
#define CGPU_PROGRAMS_IMAGE_H

#include <stdbool.h>
#include <stddef.h>

/* Whether they can: the first program is not of another architecture, and the loader that it names, or the
 * architecture's usual one, reads /etc/ld.so.preload, as glibc's do and musl's do not. A static first program may
 * start others, so what is in the image decides.
 *
 * `root` is where the container's root is for this process; it is entered by a child, so that no link of the image
 * leads out of it. `config` is the container's config.json. Where the answer is no, `why` has a text of one line. */
bool image_loads_shim(const char *root, const char *config, char *why, size_t size);

#endif
