# A bootable disk: this boot sector, and from sector 1 on a guest's image, which goes to 1 MiB.

        .set    LOW, 0x10000                    # where int 13h can put it
        .set    LOAD, 0x100000
        .set    CHUNK, 64                       # sectors per call; 127 is the most some firmware takes

        .text
        .code16
sector: cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        ljmp    $0, $1f + 0x7C00 - sector
1:      sti

        mov     $0x41, %ah                      # EDD 1.1: are the extensions there?
        mov     $0x55AA, %bx
        push    %dx
        int     $0x13
        pop     %dx
        mov     $no_extensions + 0x7C00 - sector, %si
        jc      fail
        cmp     $0xAA55, %bx
        jne     fail

        mov     $(image_end - image + 511) / 512, %cx
2:      mov     %cx, %ax
        cmp     $CHUNK, %ax
        jbe     3f
        mov     $CHUNK, %ax
3:      mov     %ax, packet_count
        push    %ax
        push    %cx
        mov     $packet + 0x7C00 - sector, %si
        mov     $0x42, %ah
        int     $0x13
        pop     %cx
        pop     %ax
        mov     $read_error + 0x7C00 - sector, %si
        jc      fail
        addw    $CHUNK * 512 / 16, packet_segment
        add     %ax, packet_lba
        sub     %ax, %cx
        jnz     2b

        in      $0x92, %al                      # A20
        or      $2, %al
        and     $0xFE, %al
        out     %al, $0x92
        cli
        lgdtl   gdtr + 0x7C00 - sector
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $(0x7C00 + protected - sector)

fail:   lodsb
        test    %al, %al
        jz      4f
        mov     $0x0E, %ah
        xor     %bx, %bx
        int     $0x10
        mov     $0x3F8, %dx
        out     %al, %dx
        jmp     fail
4:      mov     $1, %al
        out     %al, $0xF4
5:      cli
        hlt
        jmp     5b

        .code32
protected:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $LOW, %esi
        mov     $LOAD, %edi
        mov     $(image_end - image + 3) / 4, %ecx
        rep movsl
        mov     $LOAD, %eax
        jmp     *%eax

        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF              # 08: 32-bit code
        .quad   0x00CF93000000FFFF              # 10: data
gdtr:   .word   gdtr - gdt - 1
        .long   0x7C00 + gdt - sector

packet: .byte   16, 0                           # EDD disk address packet
        .set    packet_count, . - sector + 0x7C00
        .word   0
        .word   0                               # offset
        .set    packet_segment, . - sector + 0x7C00
        .word   LOW / 16
        .set    packet_lba, . - sector + 0x7C00
        .quad   1

no_extensions:
        .asciz  "FAIL int 13h extensions\r\n"
read_error:
        .asciz  "FAIL int 13h read\r\n"

        .org    0x1FE
        .word   0xAA55

image:  .incbin "image.bin"
image_end:
        .balign 512

        .section .note.GNU-stack, "", @progbits
