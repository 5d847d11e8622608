# A kernel as a bzImage has it (Linux, Documentation/arch/x86/boot.rst), started at its 16-bit entry: checks how the loader
# leaves it, then its part in protected mode sums up the initial ramdisk.

        .set    COM1, 0x3F8
        .set    LOAD, 0x100000                  # where the protected part is
        .set    ROUNDS, 0x280000                # memory that nobody loads anything to
        .set    MAGIC, 0x52535452

        .text
        .code16
        .globl  _start
_start:
image:
        .org    0x1F1
        .byte   (protected - image) / 512 - 1   # setup_sects
        .word   0                               # root_flags
        .long   (end - protected + 15) / 16     # syssize
        .word   0, 0xFFFF, 0, 0xAA55            # ram_size, vid_mode, root_dev, boot_flag
entry:  jmp     start
        .ascii  "HdrS"
        .word   0x020F                          # version
        .long   0                               # realmode_swtch
        .word   0, 0                            # start_sys_seg, kernel_version
loader: .byte   0                               # type_of_loader
flags:  .byte   1                               # loadflags: LOADED_HIGH
        .word   0                               # setup_move_size
code32: .long   LOAD                            # code32_start
ramdisk: .long  0                               # ramdisk_image
ramdisk_size: .long 0
        .long   0                               # bootsect_kludge
heap_end: .word 0                               # heap_end_ptr
        .byte   0, 0
command_line: .long 0                           # cmd_line_ptr
        .long   0x7FFFFFFF                      # initrd_addr_max
        .long   0x200000                        # kernel_alignment
        .byte   0, 21                           # relocatable_kernel, min_alignment
        .word   0                               # xloadflags
        .long   255                             # cmdline_size
        .long   0                               # hardware_subarch
        .quad   0                               # hardware_subarch_data
        .long   0, 0                            # payload
        .quad   0, LOAD                         # setup_data, pref_address
        .long   0x10000, 0                      # init_size, handover_offset

# Prints `ok text` when ZF is set, else `FAIL text`.
.macro  REPORT text:vararg
        jmp     9f
8:      .asciz  "\text"
9:      push    $8b
        call    report
.endm

start:  pushf
        pop     %dx
        cld
        test    $0x200, %dx
        REPORT  interrupts are off
        smsw    %ax
        test    $1, %al
        REPORT  the processor is in real mode
        mov     %cs, %ax
        mov     %ds, %bx
        sub     $0x20, %ax
        cmp     %bx, %ax
        REPORT  CS is 20h above DS
        mov     %es, %ax
        mov     %ss, %cx
        cmp     %bx, %ax
        jne     1f
        cmp     %bx, %cx
1:      REPORT  ES and SS are DS
        mov     %sp, %ax
        cmp     heap_end, %ax
        seta    %al
        cmp     $1, %al
        REPORT  the stack is above the heap
        cmpb    $0, loader
        sete    %al
        test    %al, %al
        REPORT  the loader says who it is
        mov     flags, %al
        and     $0x81, %al
        cmp     $0x81, %al
        REPORT  there is a heap
        cmpl    $LOAD, code32
        REPORT  code32_start is 1 MiB
        mov     $0xE820, %eax
        xor     %ebx, %ebx
        mov     $20, %ecx
        mov     $0x534D4150, %edx
        mov     $map, %di
        int     $0x15
        jc      1f
        cmp     $0x534D4150, %eax
1:      REPORT  the BIOS has a memory map

        # The command line, wherever it is below 1 MiB.
        mov     $line, %si
        call    print
        mov     command_line, %eax
        mov     %eax, %esi
        shr     $4, %eax
        and     $0xF, %si
        push    %ds
        mov     %ax, %ds
        call    print
        pop     %ds
        mov     $newline, %si
        call    print

        # Descriptors need linear addresses.
        cli
        xor     %ebp, %ebp
        mov     %ds, %bp
        shl     $4, %ebp
        lea     gdt(%ebp), %eax
        mov     %eax, gdtr + 2
        lgdtl   gdtr
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $LOAD

report: pushf
        mov     $ok, %si
        popf
        je      1f
        incb    failures
        mov     $bad, %si
1:      call    print
        mov     %sp, %si
        mov     %ss:2(%si), %si
        call    print
        mov     $newline, %si
        call    print
        ret     $2

print:  push    %ax
        push    %dx
1:      lodsb
        test    %al, %al
        jz      3f
        mov     %al, %ah
        mov     $COM1 + 5, %dx
2:      in      %dx, %al
        test    $0x20, %al
        jz      2b
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     1b
3:      pop     %dx
        pop     %ax
        ret

ok:     .asciz  "ok "
bad:    .asciz  "FAIL "
line:   .asciz  "command line: "
newline: .asciz "\r\n"
failures: .byte 0
map:    .skip   20
        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF              # 08: code
        .quad   0x00CF93000000FFFF              # 10: data
gdtr:   .word   gdtr - gdt - 1
        .long   0
        .balign 512

# EBP: where the setup code is.
        .code32
protected:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        lea     0xE000(%ebp), %esp
        cmpl    $0x4B4E5552, last - protected + LOAD
        mov     $ok - image, %esi
        je      1f
        incb    failures - image(%ebp)
        mov     $bad - image, %esi
1:      add     %ebp, %esi
        call    print32
        mov     $whole - protected + LOAD, %esi
        call    print32

        # The 32-bit words of the ramdisk, and the bytes that are left.
        mov     ramdisk - image(%ebp), %esi
        mov     ramdisk_size - image(%ebp), %ecx
        mov     %ecx, %edi
        xor     %edx, %edx
        shr     $2, %ecx
        jz      2f
1:      lodsl
        add     %eax, %edx
        loop    1b
2:      mov     %edx, %ebx
        mov     $size - protected + LOAD, %esi
        call    print32
        mov     %edi, %eax
        call    number
        mov     $sum - protected + LOAD, %esi
        call    print32
        mov     %ebx, %eax
        call    number
        # With a command line that begins with "reset" it starts twice, and spoils its own code the first time.
        mov     command_line - image(%ebp), %eax
        cmpl    $0x65736572, (%eax)
        jne     4f
        cmpl    $MAGIC, ROUNDS
        je      4f
        movl    $MAGIC, ROUNDS
        movl    $0, last - protected + LOAD
        mov     $newline - image, %esi
        add     %ebp, %esi
        call    print32
        mov     $0xFE, %al                      # the keyboard controller's reset
        out     %al, $0x64
3:      hlt
        jmp     3b
4:      in      $0xF4, %al                      # marks the moment for --timing
        mov     $pass - protected + LOAD, %esi
        cmpb    $0, failures - image(%ebp)
        je      1f
        mov     $fail - protected + LOAD, %esi
1:      call    print32
        mov     failures - image(%ebp), %al
        out     %al, $0xF4
2:      hlt
        jmp     2b

# Prints EAX as eight hexadecimal digits.
number: mov     $8, %ecx
1:      rol     $4, %eax
        push    %eax
        and     $0xF, %al
        add     $0x30, %al
        cmp     $0x3A, %al
        jb      2f
        add     $7, %al
2:      call    put
        pop     %eax
        loop    1b
        ret

print32:
        lodsb
        test    %al, %al
        jz      1f
        call    put
        jmp     print32
1:      ret

put:    push    %eax
        mov     $COM1 + 5, %edx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        pop     %eax
        mov     $COM1, %edx
        out     %al, %dx
        ret

whole:  .asciz  "the protected part is whole\r\n"
size:   .asciz  "ramdisk: "
sum:    .asciz  " bytes, sum "
pass:   .asciz  "\r\nPASS bzimage\r\n"
fail:   .asciz  "\r\nFAIL bzimage\r\n"
        # So long that it is more than a page.
        .org    protected + 0x2345 - image
last:   .long   0x4B4E5552
end:

        .section .note.GNU-stack, "", @progbits
