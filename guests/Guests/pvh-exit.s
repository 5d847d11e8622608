# A PVH kernel that is done at once: exit with status 0 at its first instruction. What is left is the launcher's own start.

        .section .note.Xen, "a", @note          # XEN_ELFNOTE_PHYS32_ENTRY
        .long   4, 4, 18
        .asciz  "Xen"
        .long   entry

        .text
        .globl  entry
        .code32
entry:  xor     %al, %al
        out     %al, $0xF4
1:      cli
        hlt
        jmp     1b

        .section .note.GNU-stack, "", @progbits
