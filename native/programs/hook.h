/* hook.h - the runtime program as a hook of the container's runtime. */
#ifndef CGPU_PROGRAMS_HOOK_H
#define CGPU_PROGRAMS_HOOK_H

/* Argument 0 is "hook". Each reads the container's state, which the runtime writes to stdin; all but the last look
 * also whether the image's programs can load the shim, see image.h. The program's exit status; not 0 keeps the
 * container from starting.
 *
 * `cgpu-runtime hook attach SOCKET TENANT`: gives the agent the state, and with it the process whose cgroup is the
 * tenant's, and why the shim cannot be loaded: the agent decides whether the driver holds it without.
 *
 * `cgpu-runtime hook claim SOCKET TENANT`: the same of a container with a claim of Kubernetes, whose agent is waited
 * for while it is not there. `hook claim`: where the driver has no limits; an image that cannot load the shim is
 * refused, and no agent asked.
 *
 * `cgpu-runtime hook device`: likewise of a container with a CDI device, which any number of containers share.
 *
 * `cgpu-runtime hook pin-etc`: in the container's mount namespace, before its root is entered, binds its
 * /etc onto itself; see pin.h. */
int hook(int argc, char *const argv[]);

#endif
