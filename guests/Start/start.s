# The entry of every guest: 32-bit protected mode, flat segments, interrupts off, image at 1 MiB.
# The ROM, the boot sector and a multiboot loader all arrive here.

        .section .start, "axw"
        .code32
        .globl  image_start
image_start:
        jmp     start32

        .balign 4
multiboot_header:                               # Multiboot 0.6.96, 3.1.1; bit 16: the address fields count
        .set    MULTIBOOT_MAGIC, 0x1BADB002
        .set    MULTIBOOT_FLAGS, 1 << 16
        .long   MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
        .long   multiboot_header, image_start, image_end, bss_end, start32

        .balign 8
gdt:    .quad   0
        .quad   0x00AF9B000000FFFF              # 08: 64-bit code
        .quad   0x00CF93000000FFFF              # 10: data
        .quad   0x00CF9B000000FFFF              # 18: 32-bit code
gdtr:   .word   gdtr - gdt - 1
        .long   gdt

start32:
        lgdt    gdtr
        ljmp    $0x18, $1f
1:      mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $stack_top, %esp

        cld
        xor     %eax, %eax
        mov     $image_end, %edi
        mov     $bss_end, %ecx
        sub     %edi, %ecx
        shr     $2, %ecx
        rep stosl

        # PML4 -> PDPT -> four page directories of 2 MiB pages: the first 4 GiB, mapped one to one.
        mov     $pml4, %edi
        mov     $2048, %ecx                     # PML4 and PDPT
        rep stosl
        movl    $pdpt + 3, pml4
        movl    $directories + 0x0003, pdpt
        movl    $directories + 0x1003, pdpt + 8
        movl    $directories + 0x2003, pdpt + 16
        movl    $directories + 0x3003, pdpt + 24
        mov     $0x83, %eax                     # present, writable, large
        mov     $directories, %edi
        xor     %ecx, %ecx
1:      mov     %eax, (%edi)
        mov     %ecx, 4(%edi)
        add     $8, %edi
        add     $0x200000, %eax
        jnc     1b

        call    enter_long_mode
        ljmp    $0x08, $start64

# Turns on PAE, SSE for the programs of Bench/, long mode and paging. Caching stays as it was.
enter_long_mode:
        mov     %cr4, %eax
        or      $0x620, %eax                    # OSXMMEXCPT OSFXSR PAE
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xC0000080, %ecx               # IA32_EFER
        rdmsr
        or      $0x100, %eax                    # LME
        wrmsr
        mov     $0x80010031, %eax               # PG WP NE ET PE
        mov     %eax, %cr0
        ret

        .code64
start64:
        lidt    idtr
        xor     %ebp, %ebp
        call    main
1:      cli
        hlt
        jmp     1b

# One gate and one stub per vector. The link address is known and the image is smaller than 64 KiB, so the gates
# can be written down here: bits 15:0 of a stub's address are its offset in the image, bits 31:16 are 0x10.
        .set    VECTORS, 64
        .balign 8
        .globl  idt
idt:
        .set    vector, 0
        .rept   VECTORS
        .word   stubs - image_start + 16 * vector
        .word   0x08
        .word   0x8E00                          # present, DPL 0, 64-bit interrupt gate
        .word   0x0010
        .quad   0
        .set    vector, vector + 1
        .endr
idtr:   .word   16 * VECTORS - 1
        .quad   idt

        .balign 16
stubs:
        .set    vector, 0
        .rept   VECTORS
        .balign 16
        # The CPU pushes an error code for #DF #TS #NP #SS #GP #PF and #AC (SDM vol. 3, table 6-1).
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        push    $0
        .endif
        push    $vector
        jmp     interrupted
        .set    vector, vector + 1
        .endr

        .balign 16
interrupted:
        push    %rax
        push    %rbx
        push    %rcx
        push    %rdx
        push    %rsi
        push    %rdi
        push    %rbp
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi
        call    interruptTaken
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rbp
        pop     %rdi
        pop     %rsi
        pop     %rdx
        pop     %rcx
        pop     %rbx
        pop     %rax
        add     $16, %rsp
        iretq

# Where a start-up IPI sends a processor: copied below 1 MiB, so everything in it is relative to CS.
        .code16
        .globl  ap_trampoline, ap_trampoline_end
ap_trampoline:
        cli
        cld
        lgdtl   %cs:ap_gdtr - ap_trampoline
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x18, $ap32
ap_gdtr:
        .word   gdtr - gdt - 1
        .long   gdt
ap_trampoline_end:

        .code32
ap32:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $1, %ebx
        lock xadd %ebx, ap_tickets
        cmp     $64, %ebx
        jae     2f
        mov     %ebx, %esp
        shl     $12, %esp
        add     $0x401000, %esp                 # ap_main's stacks: a page each from 4 MiB
        call    enter_long_mode
        ljmp    $0x08, $ap64
2:      hlt
        jmp     2b
        .code64
ap64:
        lidt    idtr
        mov     %ebx, %edi
        xor     %ebp, %ebp
        call    ap_main
1:      cli
        hlt
        jmp     1b

        .weak   ap_main
        .globl  ap_tickets
        .balign 4
ap_tickets:
        .long   0

# What the compiler takes for granted (C17, 7.24).
        .text
        .globl  memcpy, memmove, memset
memmove:
        mov     %rdi, %rax
        sub     %rsi, %rax
        cmp     %rdx, %rax                      # destination inside the source: from the end
        jae     memcpy
        lea     -1(%rsi, %rdx), %rsi
        mov     %rdi, %rax
        lea     -1(%rdi, %rdx), %rdi
        mov     %rdx, %rcx
        std
        rep movsb
        cld
        ret
memcpy:
        mov     %rdi, %rax
        mov     %rdx, %rcx
        rep movsb
        ret
memset:
        mov     %rdi, %r8
        mov     %esi, %eax
        mov     %rdx, %rcx
        rep stosb
        mov     %r8, %rax
        ret

        .bss
        .globl  caught_exception
        .balign 8
caught_exception:
        .skip   32
        .globl  interrupt_counts
        .balign 4
interrupt_counts:
        .skip   4 * VECTORS

        .section .noinit, "aw", @nobits
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
directories:
        .skip   4 * 4096
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
