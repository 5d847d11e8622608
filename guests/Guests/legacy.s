# What 64-bit mode no longer has: privilege levels by descriptors, call gates, task switches, virtual-8086 mode, segment
# limits, 32-bit paging; SYSENTER from 32-bit code. A firmware ROM, linked to where it copies itself.

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
        call    exceptions
        call    questions
        call    user_level
        call    tasks
        call    virtual8086
        call    fast_calls
        call    paging

        mov     $pass, %esi
        cmpl    $0, failures
        je      1f
        mov     $fail, %esi
1:      call    print
        mov     failures, %eax
        test    %eax, %eax
        setnz   %al
        out     %al, $0xF4
2:      hlt
        jmp     2b
pass:   .asciz  "PASS legacy\r\n"
fail:   .asciz  "FAIL legacy\r\n"

exceptions:
        ATTEMPT
        ud2
        EXPECT  6, 0, UD2 is invalid
        ATTEMPT
        mov     $ABSENT, %ax
        mov     %ax, %es
        EXPECT  11, ABSENT, a segment that is not present
        ATTEMPT
        mov     $ABSENT, %ax
        mov     %ax, %ss
        EXPECT  12, ABSENT, a stack segment that is not present
        ATTEMPT
        mov     $CODE, %ax
        mov     %ax, %ss
        EXPECT  13, CODE, code as stack segment
        cmpl    $TCG, hypervisor
        je      3f
        call    limits
3:
        mov     $DATA, %ax
        mov     %ax, %es
        mov     %ax, %fs
        ATTEMPT
        mov     $4, %eax
        bound   %eax, bounds
        EXPECT  5, 0, BOUND
        ATTEMPT
        mov     $0x7FFFFFFF, %eax
        inc     %eax
        into
        EXPECT  4, 0, INTO
        ATTEMPT
        ljmp    $DATA, $0
        EXPECT  13, DATA, a far jump to data
        ATTEMPT
        ljmp    $0, $0
        EXPECT  13, 0, a far jump to the null selector
        ATTEMPT
        lcall   $TASK_A, $0
        EXPECT  13, TASK_A, a call of a busy task
        ret
bounds: .long   1, 3

# QEMU's TCG does not look at limits and types.
limits:
        ATTEMPT
        xor     %eax, %eax
        mov     %ax, %fs
        movb    %fs:0, %al
        EXPECT  13, 0, a null segment
        ATTEMPT
        mov     $READ_ONLY, %ax
        mov     %ax, %fs
        movb    %fs:0xFFF, %al
        EXPECT  -1, 0, the last byte of a segment
        ATTEMPT
        movb    %fs:0x1000, %al
        EXPECT  13, 0, a byte beyond the limit
        ATTEMPT
        movl    %fs:0xFFD, %eax
        EXPECT  13, 0, a double word across the limit
        ATTEMPT
        movb    %al, %fs:0
        EXPECT  13, 0, a write to a read-only segment
        ATTEMPT
        mov     $EXPAND_DOWN, %ax
        mov     %ax, %fs
        movb    %fs:0x1000, %al
        EXPECT  -1, 0, an expand-down segment begins above its limit
        ATTEMPT
        movb    %fs:0xFFF, %al
        EXPECT  13, 0, and not at it
        ret

questions:
        mov     $USER_DATA, %ecx
        lar     %ecx, %eax
        jnz     1f
        cmp     $0x00C0F300, %eax
1:      REPORT  LAR gives the access rights
        lsl     %ecx, %eax
        jnz     1f
        cmp     $-1, %eax
1:      REPORT  LSL gives the limit in bytes
        mov     $0x1000, %ecx
        lar     %ecx, %eax
        setnz   %al
        cmp     $1, %al
        REPORT  LAR of a selector beyond the table clears ZF
        mov     $CALL_GATE, %ecx
        lsl     %ecx, %eax
        setnz   %al
        cmp     $1, %al
        REPORT  LSL knows no gates
        mov     $READ_ONLY, %ecx
        verr    %cx
        REPORT  VERR of a readable segment
        verw    %cx
        setnz   %al
        cmp     $1, %al
        REPORT  VERW of a read-only one clears ZF
        mov     $0x10, %eax
        mov     $0x3, %ecx
        arpl    %cx, %ax
        jnz     1f
        cmp     $0x13, %ax
1:      REPORT  ARPL raises the requested level
        ret

# Ring 3 through IRET; back by INT 30h, whose gate it may use.
.macro  ENTER_USER where
        pushl   $USER_DATA
        pushl   $USER_STACK
        pushf
        pushl   $USER_CODE
        pushl   $\where
        iret
.endm

user_level:
        mov     $0xAA, %ebx
        ATTEMPT
        ENTER_USER user_gate
        EXPECT  0x30, 0, ring 3 comes back by an interrupt
        cmp     $0x11223344, %ebx
        REPORT  the call gate copied its parameter to the inner stack
        cmpl    $USER_STACK, %edi
        REPORT  and the return popped it from the outer one
        ATTEMPT
        ENTER_USER user_privileged
        EXPECT  13, 0, HLT at level 3
        ATTEMPT
        ENTER_USER user_inner_segment
        EXPECT  13, DATA, loading a segment of level 0 at level 3
        ATTEMPT
        ENTER_USER user_interrupt
        EXPECT  13, (0x31 << 3 | 2), an interrupt gate of level 0
        ATTEMPT
        ENTER_USER user_port
        EXPECT  13, 0, a port that the bitmap forbids
        cmp     $0x5A, %bl
        REPORT  after one that it permits
        cmpl    $TCG, hypervisor
        je      9f
        mov     %cr0, %eax
        or      $0x40000, %eax                  # AM
        mov     %eax, %cr0
        ATTEMPT
        ENTER_USER user_alignment
        EXPECT  17, 0, a misaligned access with CR0.AM and RFLAGS.AC
        mov     %cr0, %eax
        and     $~0x40000, %eax
        mov     %eax, %cr0
9:      ret

user_gate:
        mov     $USER_DATA, %eax
        mov     %eax, %ds
        pushl   $0x11223344
        lcall   $CALL_GATE, $0
        mov     %esp, %edi
        int     $0x30
gate_entry:
        mov     8(%esp), %ebx
        mov     %cs, %eax
        cmp     $CODE, %eax
        je      1f
        mov     $0, %ebx
1:      lret    $4
user_privileged:
        hlt
user_inner_segment:
        mov     $DATA, %ax
        mov     %ax, %ds
        int     $0x30
user_interrupt:
        int     $0x31
user_port:
        in      $0x71, %al
        mov     $0x5A, %bl
        in      $0x64, %al
        int     $0x30
user_alignment:
        mov     $USER_DATA, %eax
        mov     %eax, %ds
        pushf
        orl     $0x40000, (%esp)
        popf
        mov     USER_STACK - 0x101, %eax
        int     $0x30

tasks:
        mov     %cr0, %eax
        and     $~8, %eax                       # TS
        mov     %eax, %cr0
        xor     %ebx, %ebx
        lcall   $TASK_B, $0
        cmpl    $0x1234, task_result
        REPORT  a call enters a task
        mov     %cr0, %eax
        and     $8, %eax
        cmp     $8, %eax
        REPORT  which sets CR0.TS
        cmpw    $TASK_A, task_b
        REPORT  and links back
        movb    gdt + TASK_B + 5, %al
        cmp     $0x89, %al
        REPORT  its return makes it available
        movb    gdt + TASK_A + 5, %al
        cmp     $0x8B, %al
        REPORT  this one stayed busy
        movl    $0, task_result
        lcall   $TASK_GATE, $0
        cmpl    $0x1234, task_result
        REPORT  a task gate
        movl    $0, task_result
        int     $0x32
        cmpl    $0x1234, task_result
        REPORT  an interrupt by a task gate
        testl   $0x4000, task_b + 0x24
        REPORT  a return by IRET saves NT clear
        clts
        ret
task_b_entry:
        pushf
        pop     %eax
        test    $0x4000, %eax
        jz      1f
        movl    $0x1234, task_result
1:      iret
        jmp     task_b_entry

virtual8086:
        mov     $v86_code, %esi
        mov     $V86_SEGMENT << 4, %edi
        mov     $v86_end - v86_code, %ecx
        cld
        rep movsb
        ATTEMPT
        push    $0x3333                         # GS
        push    $0x2222                         # FS
        push    $0x4000                         # DS
        push    $0x1111                         # ES
        push    $V86_SEGMENT                    # SS
        push    $0xF000                         # ESP
        push    $0x23002                        # VM, IOPL 3
        push    $V86_SEGMENT
        push    $0
        iret
        EXPECT  0x30, 0, virtual-8086 mode ends with an interrupt
        cmp     $0x40001111, %ebx
        REPORT  its segments are paragraphs
        mov     frame_flags, %eax
        and     $0x23000, %eax
        cmp     $0x23000, %eax
        REPORT  its flags show VM
        cmpw    $0x3333, frame_gs
        REPORT  its segment registers are on the stack
        cmpw    $0, entry_gs
        REPORT  and null in the handler
        ATTEMPT
        push    $0
        push    $0
        push    $0
        push    $0
        push    $V86_SEGMENT
        push    $0xF000
        push    $0x20002                        # VM, IOPL 0
        push    $V86_SEGMENT
        push    $v86_sensitive - v86_code
        iret
        EXPECT  13, 0, CLI is sensitive to IOPL
        ret
        .code16
v86_code:
        mov     %ds, %bx
        shl     $16, %ebx
        mov     %es, %bx
        int     $0x30
v86_sensitive:
        cli
        int     $0x30
v86_end:
        .code32

fast_calls:
        mov     $1, %eax
        cpuid
        test    $1 << 11, %edx
        jz      9f
        mov     $0x174, %ecx
        xor     %edx, %edx
        mov     $FLAT_CODE, %eax
        wrmsr
        inc     %ecx
        mov     $STACK - 0x800, %eax
        wrmsr
        inc     %ecx
        mov     $sysenter_entry, %eax
        wrmsr
        ATTEMPT
        ENTER_USER user_sysenter
        EXPECT  0x30, 0, SYSENTER and SYSEXIT
        cmp     $0x77, %ebx
        REPORT  went through the entry
        ATTEMPT
        mov     $0x174, %ecx
        xor     %eax, %eax
        wrmsr
        sysenter
        EXPECT  13, 0, SYSENTER without a segment
9:      ret
user_sysenter:
        mov     $USER_STACK, %ebp
        sysenter
        hlt
user_after:
        int     $0x30
sysenter_entry:
        mov     $0x77, %ebx
        mov     $user_after, %edx
        mov     %ebp, %ecx
        sysexit

# 4 MiB pages, one to one: the first for all levels, the last one for the ROM.
paging:
        mov     $DIRECTORY, %edi
        xor     %eax, %eax
        mov     $1024, %ecx
        rep stosl
        movl    $0x87, DIRECTORY
        movl    $0xFFC00083, DIRECTORY + 4 * 1023
        mov     %cr4, %eax
        or      $0x10, %eax                     # PSE
        mov     %eax, %cr4
        mov     $DIRECTORY, %eax
        mov     %eax, %cr3
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        jmp     1f
1:      ATTEMPT
        movl    0x800000, %eax
        EXPECT  14, 0, a page that is not present
        mov     %cr2, %eax
        cmp     $0x800000, %eax
        REPORT  CR2 is its address
        movl    $0x83, DIRECTORY + 4
        ATTEMPT
        movl    $1, 0x400000
        EXPECT  -1, 0, a large page
        mov     DIRECTORY + 4, %eax
        and     $0x60, %eax
        cmp     $0x60, %eax
        REPORT  is accessed and dirty
        ATTEMPT
        ENTER_USER user_supervisor_page
        EXPECT  14, 5, a page of the supervisor at level 3
        mov     %cr0, %eax
        and     $0x7FFFFFFF, %eax
        mov     %eax, %cr0
        ret
user_supervisor_page:
        mov     $USER_DATA, %eax
        mov     %eax, %ds
        movl    0x400000, %eax
        int     $0x30

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
gdt_end:
gdtr:   .word   gdt_end - gdt - 1
        .long   gdt
rom_gdtr:
        .word   gdt_end - gdt - 1
        .long   ROM + gdt - rom
idtr:   .word   64 * 8 - 1
        .long   idt

        .balign 16
task_a: .long   0, STACK - 0x400, DATA
        .org    task_a + 0x66
        .word   0x68
        .fill   0x64 / 8, 1, 0                  # all ports to 0xFF but 64h
        .byte   1 << (0x64 & 7)
        .fill   0x20 - 0x64 / 8 - 1, 1, 0
        .byte   0xFF
task_a_end:
        .balign 16
task_b: .long   0, 0, 0, 0, 0, 0, 0, 0, task_b_entry, 2
        .long   0, 0, 0, 0, STACK - 0xC00, 0, 0, 0
        .long   DATA, CODE, DATA, DATA, DATA, DATA, 0
        .word   0, 0x68
task_b_end:

        .balign 8
caught_vector:  .long 0
caught_error:   .long 0
saved_stack:    .long 0
resume:         .long 0
failures:       .long 0
task_result:    .long 0
frame_flags:    .long 0
frame_gs:       .long 0
entry_gs:       .long 0
hypervisor:     .long 0
idt:    .fill   64 * 8, 1, 0

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
