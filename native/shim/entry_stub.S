/* entry_stub.S - the exported dlsym, dlvsym and dlmopen. Each asks entry.c, then either returns the answer or
 * jumps to the real function with arguments, stack and return address exactly as they came.
 * The C function gets the return address as a further argument, after the caller's own. */

#if defined(__x86_64__)

/* Verdict: answer in rax, jump in rdx. Three pushes keep the stack aligned for the call. */
.macro STUB name, decide, caller
        .globl  \name
        .type   \name, @function
        .p2align 4
\name:
        .cfi_startproc
        endbr64
        pushq   %rdi
        .cfi_adjust_cfa_offset 8
        pushq   %rsi
        .cfi_adjust_cfa_offset 8
        pushq   %rdx
        .cfi_adjust_cfa_offset 8
        movq    24(%rsp), \caller
        call    \decide
        movq    %rdx, %r11
        popq    %rdx
        .cfi_adjust_cfa_offset -8
        popq    %rsi
        .cfi_adjust_cfa_offset -8
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        testq   %r11, %r11
        jz      1f
        jmpq    *%r11
1:      ret
        .cfi_endproc
        .size   \name, . - \name
.endm

        .text
        .hidden cg_entry_dlsym
        .hidden cg_entry_dlvsym
        .hidden cg_entry_dlmopen
        STUB    dlsym, cg_entry_dlsym, %rdx
        STUB    dlvsym, cg_entry_dlvsym, %rcx
        STUB    dlmopen, cg_entry_dlmopen, %rcx

#elif defined(__aarch64__)

/* Verdict: answer in x0, jump in x1. The jump goes through x16, which a function that begins with a
 * branch target identification accepts. */
.macro STUB name, decide, caller
        .globl  \name
        .type   \name, %function
        .p2align 4
\name:
        .cfi_startproc
        hint    #34                     /* bti c */
        stp     x29, x30, [sp, #-48]!
        .cfi_def_cfa_offset 48
        .cfi_offset 29, -48
        .cfi_offset 30, -40
        mov     x29, sp
        stp     x0, x1, [sp, #16]
        str     x2, [sp, #32]
        mov     \caller, x30
        bl      \decide
        cbz     x1, 1f
        mov     x16, x1
        ldp     x0, x1, [sp, #16]
        ldr     x2, [sp, #32]
        ldp     x29, x30, [sp], #48
        .cfi_remember_state
        .cfi_restore 29
        .cfi_restore 30
        .cfi_def_cfa_offset 0
        br      x16
        .cfi_restore_state
1:      ldp     x29, x30, [sp], #48
        .cfi_restore 29
        .cfi_restore 30
        .cfi_def_cfa_offset 0
        ret
        .cfi_endproc
        .size   \name, . - \name
.endm

        .text
        .hidden cg_entry_dlsym
        .hidden cg_entry_dlvsym
        .hidden cg_entry_dlmopen
        STUB    dlsym, cg_entry_dlsym, x2
        STUB    dlvsym, cg_entry_dlvsym, x3
        STUB    dlmopen, cg_entry_dlmopen, x3

#else
#error "cgpu runs on x86-64 and aarch64"
#endif

        .section .note.GNU-stack, "", %progbits
