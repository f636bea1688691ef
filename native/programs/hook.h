/* hook.h - the runtime program as a hook of the container's runtime. */
#ifndef CGPU_PROGRAMS_HOOK_H
#define CGPU_PROGRAMS_HOOK_H

/* `cgpu-runtime hook attach SOCKET TENANT`: gives the agent the container's state, which the runtime
 * writes to stdin, and with it the process whose cgroup is the tenant's. Argument 0 is "hook". The
 * program's exit status; not 0 keeps the container from starting.
 *
 * `cgpu-runtime hook claim [SOCKET TENANT]`: of a container with a claim of Kubernetes. Refuses an image whose
 * programs cannot load the shim, see image.h; with an agent named, that is the agent's to decide, which is given
 * the state as by `attach`, and is waited for while it is not there.
 *
 * `cgpu-runtime hook pin-etc`: in the container's mount namespace, before its root is entered, binds its
 * /etc onto itself; see pin.h. */
int hook(int argc, char *const argv[]);

#endif
