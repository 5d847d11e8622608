# A PVH kernel that the machine resets twice: its code, data and bss must be loaded as new each time.

        .set    COM1, 0x3F8
        .set    ROUNDS, 0x280000                # memory that nobody loads anything to
        .set    MAGIC, 0x52535452

        .section .note.Xen, "a", @note          # XEN_ELFNOTE_PHYS32_ENTRY
        .long   4, 4, 18
        .asciz  "Xen"
        .long   entry

        .text
        .globl  entry
        .code32
entry:  mov     $stack_end, %esp
        cmpl    $0x336EC578, (%ebx)             # the start information, too
        jne     stale
        cmpl    $1, data
        jne     stale
        cmpl    $0, zero
        jne     stale
        movl    $2, data
        movl    $3, zero
        movl    $0, (%ebx)
        mov     $as_new, %esi
        call    print
        cmpl    $MAGIC, ROUNDS
        je      second
        movl    $MAGIC, ROUNDS
        mov     $0xFE, %al                      # the reset register of mode pv
        out     %al, $0x64
1:      hlt
        jmp     1b
second: mov     $0, %al
        jmp     exit
stale:  mov     $stale_text, %esi
        call    print
        mov     $1, %al
exit:   out     %al, $0xF4
2:      hlt
        jmp     2b

print:  mov     $COM1, %dx
        lodsb
        test    %al, %al
        jz      3f
        out     %al, %dx
        jmp     print
3:      ret

as_new: .asciz  "as new\r\n"
stale_text:
        .asciz  "FAIL stale\r\n"

        .data
data:   .long   1
        .bss
zero:   .skip   4
        .skip   256
stack_end:

        .section .note.GNU-stack, "", @progbits
