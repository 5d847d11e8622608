# A guest as a kernel for `--kernel`: PROTOCOL chooses what it says that it is. It keeps the state that the loader left for
# the guest to look at, and goes on as the ROM does.

        .set    PVH, 1
        .set    MULTIBOOT, 2
        .set    MULTIBOOT2, 3
        .set    LINUX64, 4
        .set    LINUX32, 5
        .set    LOAD, 0x100000

# Keeps the registers as the loader left them; \r is the first letter of those that are as wide as the mode.
.macro  SAVE    r
        mov     %eax, state_eax
        mov     %ebx, state_ebx
        mov     %ecx, state_ecx
        mov     %edx, state_edx
        mov     %esi, state_esi
        mov     %edi, state_edi
        mov     %ebp, state_ebp
        mov     %cs, state_cs
        mov     %ds, state_ds
        mov     %es, state_es
        mov     %ss, state_ss
        str     state_tr
        mov     %cr0, %\r\()ax
        mov     %eax, state_cr0
        mov     %cr3, %\r\()ax
        mov     %eax, state_cr3
        mov     %cr4, %\r\()ax
        mov     %eax, state_cr4
        mov     $stack_end, %\r\()sp
        pushf
        pop     %\r\()ax
        mov     %eax, state_eflags
        mov     $0xC0000080, %ecx               # IA32_EFER
        rdmsr
        mov     %eax, state_efer
.endm

        .section .image, "awx"
image:  .incbin "image.bin"
        .balign 4
image_end:

        .section .entry, "awx"
        .balign 8
header:
        .if     PROTOCOL == MULTIBOOT           # Multiboot 0.6.96, 3.1.1: modules on pages, memory map
        .long   0x1BADB002, 3, -(0x1BADB002 + 3)
        .endif
        .if     PROTOCOL == MULTIBOOT2          # Multiboot 2.0, 3.1.1
        .long   0xE85250D6, 0, header_end - header, -(0xE85250D6 + header_end - header)
        .short  1, 0                            # information request: command line, modules, memory map
        .long   20
        .long   1, 3, 6
        .balign 8
        .short  6, 1                            # modules on pages
        .long   8
        .short  0, 0
        .long   8
header_end:
        .endif

        .globl  entry
        .if     PROTOCOL == LINUX64
        .code64
entry:  mov     %rsi, state_rsi
        SAVE    r
        # Down to 32-bit mode, by a descriptor of our own.
        lgdt    gdtr
        push    $0x08
        push    $compatible
        lretq
        .code32
compatible:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     %cr0, %eax
        and     $0x7FFFFFFF, %eax
        mov     %eax, %cr0
        mov     $0xC0000080, %ecx
        rdmsr
        and     $~0x100, %eax
        wrmsr
        .else
        .code32
entry:  SAVE    e
        .endif
        movl    $PROTOCOL, state_protocol
        cld
        mov     $image, %esi
        mov     $LOAD, %edi
        mov     $(image_end - image) / 4, %ecx
        rep movsl
        mov     $LOAD, %eax
        jmp     *%eax

        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF              # 08: 32-bit code
        .quad   0x00CF93000000FFFF              # 10: data
gdtr:   .word   gdtr - gdt - 1
        .long   gdt, 0

# What Guests/kernel.swift reads, at 320000h.
        .section .state, "aw", @nobits
state_protocol: .skip 4
state_eax:      .skip 4
state_ebx:      .skip 4
state_ecx:      .skip 4
state_edx:      .skip 4
state_esi:      .skip 4
state_edi:      .skip 4
state_ebp:      .skip 4
state_eflags:   .skip 4
state_cr0:      .skip 4
state_cr3:      .skip 4
state_cr4:      .skip 4
state_efer:     .skip 4
state_cs:       .skip 2
state_ds:       .skip 2
state_es:       .skip 2
state_ss:       .skip 2
state_tr:       .skip 2
                .skip 2
state_rsi:      .skip 8
                .skip 0xE00
stack_end:

        .if     PROTOCOL == PVH
        .section .note.Xen, "a", @note          # XEN_ELFNOTE_PHYS32_ENTRY
        .long   4, 4, 18
        .asciz  "Xen"
        .long   entry
        .endif

        .section .note.GNU-stack, "", @progbits
