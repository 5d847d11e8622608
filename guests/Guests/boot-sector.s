# A boot sector in real mode: prints by int 10h, then on COM1, and exits with status 0. Where the BIOS puts its text on
# COM1, too, the lines are there twice.

        .text
        .code16
sector: cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7C00, %sp
        sti

        mov     $text + 0x7C00 - sector, %si
        push    %si
screen: lodsb
        test    %al, %al
        jz      1f
        mov     $0x0E, %ah                      # int 10h, teletype output
        mov     $0x0007, %bx
        int     $0x10
        jmp     screen

1:      pop     %si
serial: lodsb
        test    %al, %al
        jz      done
        push    %ax
        mov     $0x3FD, %dx                     # line status: wait for THRE, but not for ever
        mov     $0xFFFF, %cx
1:      in      %dx, %al
        test    $0x20, %al
        loopz   1b
        pop     %ax
        mov     $0x3F8, %dx
        out     %al, %dx
        jmp     serial

done:   xor     %al, %al
        out     %al, $0xF4
2:      cli
        hlt
        jmp     2b

text:   .asciz  "vmrun boot sector\r\nPASS boot-sector\r\n"

        .org    0x1FE
        .word   0xAA55

        .section .note.GNU-stack, "", @progbits
