# A 64 KiB firmware ROM that ends at 4 GiB: a guest's image, and the way to it from the reset vector.

        .set    ROM, 0xFFFF0000
        .set    LOAD, 0x100000

        .text
        .code32
rom:
image:  .incbin "image.bin"
        .balign 4
image_end:

        .org    0xFF00
        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF              # 08: 32-bit code
        .quad   0x00CF93000000FFFF              # 10: data
gdtr:   .word   gdtr - gdt - 1
        .long   ROM + gdt - rom

        .code16
real:
        cli
        cld
        lgdtl   %cs:gdtr - rom
        mov     %cr0, %eax
        and     $0x9FFFFFFF, %eax               # CD and NW are set at reset (SDM vol. 3, table 10-1)
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $(ROM + protected - rom)

        .code32
protected:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $ROM + image - rom, %esi
        mov     $LOAD, %edi
        mov     $(image_end - image) / 4, %ecx
        rep movsl
        mov     $LOAD, %eax
        jmp     *%eax

        .code16
        .org    0xFFF0                          # F000:FFF0, at 4 GiB - 16
        jmp     real
        .org    0x10000

        .section .note.GNU-stack, "", @progbits
