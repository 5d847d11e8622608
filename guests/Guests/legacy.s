# What 64-bit mode no longer has: privilege levels by descriptors, call gates, task switches, virtual-8086 mode, segment
# limits, 32-bit paging, x87 errors by IRQ 13; SYSENTER from 32-bit code. A firmware ROM, linked to where it copies itself.

        .include "protected.s"

name:   .asciz  "legacy"

tests:  call    exceptions
        call    questions
        call    user_level
        call    tasks
        call    virtual8086
        call    fast_calls
        cmpl    $TCG, hypervisor                # QEMU 7.2 aborts at such an error
        je      1f
        call    x87_errors
1:      jmp     paging

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
        mov     $DATA, %eax
        mov     %eax, %fs
        movl    $0, task_result
        mov     $0x12345678, %ebx
        lcall   $TASK_C, $0
        cmpl    $0x1616, task_result
        REPORT  a 16-bit task has its registers and no FS
        cmp     $0x12345678, %ebx
        REPORT  and this one its own when it returns
        cmpw    $0x9ABC, task_c + 0x14
        REPORT  what it left in CX is in its segment
        cmpw    $TASK_A, task_c
        REPORT  and so is the link
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

        .code16
task_c_entry:
        cmp     $0x1111, %ax
        jne     1f
        mov     %fs, %ax
        test    %ax, %ax
        jnz     1f
        mov     $0x9ABC, %cx
        pushf
        pop     %ax
        test    $0x4000, %ax
        jz      1f
        addr32 movl $0x1616, task_result
1:      iret
        jmp     task_c_entry
        .code32

# CR0.NE clear: an x87 exception asks for IRQ 13, which is vector 2Dh here.
x87_errors:
        mov     %cr0, %eax
        and     $~0x2C, %eax                    # NE, TS, EM
        mov     %eax, %cr0
        movl    $0x13F, 0xFEE000F0              # the local APIC on, LINT0 for the 8259A
        movl    $0x700, 0xFEE00350
        mov     $pic_words, %esi
        mov     $10, %ecx
        xor     %edx, %edx
1:      lodsw
        mov     %al, %dl
        mov     %ah, %al
        out     %al, %dx
        loop    1b
        fninit
        pushl   $0x37B                          # divide-by-zero is not masked
        fldcw   (%esp)
        add     $4, %esp
        fldz
        fld1
        fdiv    %st(1), %st
        ATTEMPT
        sti
        fwait
1:      hlt
        jmp     1b
        EXPECT  0x2D, 0, an x87 exception with CR0.NE clear is IRQ 13
        mov     $0xA0, %edx
        mov     $0x0B, %al                      # the interrupts in service
        out     %al, %dx
        in      %dx, %al
        cmp     $0x20, %al
        REPORT  of the second 8259A
        xor     %eax, %eax
        out     %al, $0xF0
        ATTEMPT
        fwait
        fwait
        EXPECT  -1, 0, a write to port F0h lets the processor go on
        fnstsw  %ax
        and     $0x84, %eax
        cmp     $0x84, %eax
        REPORT  while the exception is pending
        fnclex
        mov     $0x20, %al
        out     %al, $0xA0
        out     %al, $0x20
        ATTEMPT
        sti
        nop
        fwait
        nop
        EXPECT  -1, 0, and there is none after FNCLEX
        cli
        mov     $0xFF, %al
        out     %al, $0xA1
        mov     %cr0, %eax
        or      $0x20, %eax
        mov     %eax, %cr0
        pushl   $0x37B
        fldcw   (%esp)
        add     $4, %esp
        fldz
        fld1
        fdiv    %st(1), %st
        ATTEMPT
        fwait
        EXPECT  16, 0, with CR0.NE it is an exception
        fninit
        ret
        # Port, value: the 8259As at vectors 20h and 28h, only IRQ 13 and the cascade not masked.
pic_words:
        .byte   0x20, 0x11, 0xA0, 0x11, 0x21, 0x20, 0xA1, 0x28, 0x21, 0x04, 0xA1, 0x02, 0x21, 0x01, 0xA1, 0x01
        .byte   0x21, 0xFB, 0xA1, 0xDF

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
task_c: .word   0, 0, 0, 0, 0, 0, 0, task_c_entry - rom, 2
        .word   0x1111, 0, 0, 0, 0xF000, 0, 0, 0
        .word   DATA, CODE16, STACK16, DATA, 0
task_c_end:
        .balign 16
task_b: .long   0, 0, 0, 0, 0, 0, 0, 0, task_b_entry, 2
        .long   0, 0, 0, 0, STACK - 0xC00, 0, 0, 0
        .long   DATA, CODE, DATA, DATA, DATA, DATA, 0
        .word   0, 0x68
task_b_end:

task_result:    .long 0
