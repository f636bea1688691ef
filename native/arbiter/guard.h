/* guard.h - an agent that survives the shortening of a file that it has mapped for writing.
 *
 * A tenant's grants file is the agent's own. Who is the same user, as under `cgpu run`, can shorten it all the same;
 * a store into a page that is gone would then end the agent, and with it everybody's.
 */
#ifndef CGPU_ARBITER_GUARD_H
#define CGPU_ARBITER_GUARD_H

/* From now on such a page is replaced by memory that nobody else sees; the tenant whose file it was has spoilt it for
 * itself, and the readers of files tell that. Any other SIGBUS ends the process as before. May be repeated. */
void cgpu_guard_grants(void);

#endif
