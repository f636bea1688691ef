/* conf.h - cgpu-runtime.conf, the file beside the runtime program. */
#ifndef CGPU_PROGRAMS_CONF_H
#define CGPU_PROGRAMS_CONF_H

#include <stdbool.h>
#include <stddef.h>

#define CONF_MAX 16384 /* bytes of a file; more is refused */

struct conf {
  char path[4096];    /* of the file itself */
  char text[CONF_MAX + 1]; /* the file; the values below point into it */
  const char *runtime;   /* the real runtime's program */
  const char *python;    /* the interpreter that has cgpu.oci */
  const char *socket;    /* the agent's */
  const char *tenants;   /* the agent's folder of tenants */
  const char *sim_state; /* null: real GPUs. Not used here, but checked like the others */
};

/* Takes the file's text (conf->text, NUL-terminated) apart. Lines are `key = value`; blank lines and
 * what starts with '#' say nothing; a key of a later version is passed over. On failure the cause is
 * in `problem`. */
bool conf_parse(struct conf *conf, char *problem, size_t size);

/* Reads the file beside this process's executable; false, with the cause said, when it cannot be used. */
bool conf_read(struct conf *conf);

#endif
