# A machine in 32-bit protected mode for guests in assembly: the way there from the reset vector, descriptors, gates,
# reports. A guest includes it first, and has `name`, `tests`, and the task state segments and entries that the
# descriptors name.

        .set    ROM, 0xFFFF0000
        .set    COM1, 0x3F8
        .set    TCG, 0x54474354                 # "TCGT"
        .set    STACK, 0x40000
        .set    USER_STACK, 0x50000
        .set    DIRECTORY, 0x60000
        .set    V86_SEGMENT, 0x8000

        .set    CODE, 0x08
        .set    DATA, 0x10
        .set    USER_CODE, 0x18 + 3
        .set    USER_DATA, 0x20 + 3
        .set    TASK_A, 0x28
        .set    TASK_B, 0x30
        .set    CALL_GATE, 0x38 + 3
        .set    TASK_GATE, 0x40
        .set    ABSENT, 0x48
        .set    READ_ONLY, 0x50
        .set    EXPAND_DOWN, 0x58
        .set    FLAT_CODE, 0x60                 # four descriptors for SYSENTER and SYSEXIT
        .set    TASK_C, 0x80                    # 16-bit
        .set    CODE16, 0x88
        .set    STACK16, 0x90

        .text
        .code32
        .globl  _start
_start:
rom:

# Prints `ok text` when ZF is set, else `FAIL text`.
.macro  REPORT text:vararg
        jmp     9f
8:      .asciz  "\text"
9:      push    $8b
        call    report
.endm

# Executes what follows up to END; an exception goes there too.
.macro  ATTEMPT
        movl    $-1, caught_vector
        movl    $0, caught_error
        mov     %esp, saved_stack
        movl    $7f, resume
.endm
.macro  EXPECT vector, error, text:vararg
7:      mov     caught_vector, %eax
        shl     $16, %eax
        or      caught_error, %ax
        cmp     $((\vector) << 16 | (\error)), %eax
        REPORT  \text
.endm

# Ring 3 through IRET; back by INT 30h, whose gate it may use.
.macro  ENTER_USER where
        pushl   $USER_DATA
        pushl   $USER_STACK
        pushf
        pushl   $USER_CODE
        pushl   $\where
        iret
.endm

main:
        mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     %eax, %ss
        mov     $STACK, %esp
        call    make_idt
        lgdt    gdtr
        lidt    idtr
        mov     $TASK_A, %ax
        ltr     %ax
        testb   $2, gdt + TASK_A + 5
        setnz   %al
        cmp     $1, %al
        REPORT  LTR marks the task busy

        mov     $0x40000000, %eax
        cpuid
        mov     %ebx, hypervisor
        call    tests

        mov     $pass, %esi
        cmpl    $0, failures
        je      1f
        mov     $fail, %esi
1:      call    print
        mov     $name, %esi
        call    print
        mov     $newline, %esi
        call    print
        mov     failures, %eax
        test    %eax, %eax
        setnz   %al
        out     %al, $0xF4
2:      hlt
        jmp     2b
pass:   .asciz  "PASS "
fail:   .asciz  "FAIL "

# Gates for 64 vectors: exceptions, and 30h at level 3; 32h is a task gate.
make_idt:
        mov     $idt, %edi
        mov     $stubs, %eax
        mov     $64, %ecx
1:      mov     %ax, (%edi)
        movw    $CODE, 2(%edi)
        movw    $0x8E00, 4(%edi)
        mov     %eax, %edx
        shr     $16, %edx
        mov     %dx, 6(%edi)
        add     $8, %edi
        add     $16, %eax
        loop    1b
        movw    $0xEE00, idt + 8 * 0x30 + 4
        movw    $0xEE00, idt + 8 * 4 + 4        # INTO
        movw    $TASK_B, idt + 8 * 0x32 + 2
        movw    $0x8500, idt + 8 * 0x32 + 4
        ret

        .balign 16
stubs:
        .set    vector, 0
        .rept   64
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        push    $0
        .endif
        push    $vector
        jmp     caught
        .set    vector, vector + 1
        .endr

caught:
        mov     %gs, %ss:entry_gs
        push    %eax
        mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        pop     %eax
        pop     caught_vector
        pop     caught_error
        add     $8, %esp
        pop     frame_flags
        mov     24(%esp), %ax                   # GS of virtual-8086 mode
        mov     20(%esp), %ax
        mov     %ax, frame_gs
        mov     saved_stack, %esp
        jmp     *resume

report: pushf
        mov     $ok, %esi
        popf
        je      1f
        incl    failures
        mov     $bad, %esi
1:      call    print
        mov     4(%esp), %esi
        call    print
        mov     $newline, %esi
        call    print
        ret     $4
ok:     .asciz  "ok "
bad:    .asciz  "FAIL "
newline: .asciz "\r\n"

print:  push    %eax
        push    %edx
        cld
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
3:      pop     %edx
        pop     %eax
        ret

        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF              # 08: code
        .quad   0x00CF93000000FFFF              # 10: data
        .quad   0x00CFFB000000FFFF              # 18: code, level 3
        .quad   0x00CFF3000000FFFF              # 20: data, level 3
        .word   task_a_end - task_a - 1, task_a - rom, 0x8902, 0
        .word   task_b_end - task_b - 1, task_b - rom, 0x8902, 0
        .word   gate_entry - rom, CODE, 0xEC01, 2
        .word   0, TASK_B, 0x8500, 0            # 40: task gate
        .quad   0x00CF13000000FFFF              # 48: not present
        .quad   0x0040910000000FFF              # 50: read-only, 4 KiB
        .quad   0x0040970000000FFF              # 58: expand-down, from 4 KiB up
        .quad   0x00CF9B000000FFFF
        .quad   0x00CF93000000FFFF
        .quad   0x00CFFB000000FFFF
        .quad   0x00CFF3000000FFFF
        .word   task_c_end - task_c - 1, task_c - rom, 0x8102, 0
        .quad   0x00009B020000FFFF              # 88: 16-bit code, from 20000h
        .quad   0x000093030000FFFF              # 90: 16-bit stack, from 30000h
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
rom_gdtr:
        .word   gdt_end - gdt - 1
        .long   ROM + gdt - rom
idtr:   .word   64 * 8 - 1
        .long   idt

        .balign 8
caught_vector:  .long 0
caught_error:   .long 0
saved_stack:    .long 0
resume:         .long 0
failures:       .long 0
frame_flags:    .long 0
frame_gs:       .long 0
entry_gs:       .long 0
hypervisor:     .long 0
idt:    .fill   64 * 8, 1, 0

# The end of the ROM: after all of the guest.
        .text   1
        .org    rom + 0xFF00
        .code16
real:   cli
        cld
        lgdtl   %cs:(rom_gdtr - rom)
        mov     %cr0, %eax
        and     $0x9FFFFFFF, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $CODE, $(ROM + protected - rom)
        .code32
protected:
        mov     $DATA, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     $ROM, %esi
        mov     $rom, %edi
        mov     $0x4000, %ecx
        rep movsl
        ljmp    $CODE, $main
        .org    rom + 0xFFF0
        .code16
        jmp     real
        .org    rom + 0x10000

        .section .note.GNU-stack, "", @progbits

        .text   0
        .code32
