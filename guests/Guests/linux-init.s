# The first program of a Linux whose ramdisk holds nothing else: says so and powers off.

        .set    SYS_write, 1
        .set    SYS_reboot, 169
        .set    LINUX_REBOOT_MAGIC1, 0xFEE1DEAD
        .set    LINUX_REBOOT_MAGIC2, 0x28121969
        .set    LINUX_REBOOT_CMD_POWER_OFF, 0x4321FEDC

        .text
        .globl  entry
entry:  mov     $SYS_write, %eax
        mov     $1, %edi
        lea     text(%rip), %rsi
        mov     $text_end - text, %edx
        syscall
        mov     $SYS_reboot, %eax
        mov     $LINUX_REBOOT_MAGIC1, %edi
        mov     $LINUX_REBOOT_MAGIC2, %esi
        mov     $LINUX_REBOOT_CMD_POWER_OFF, %edx
        syscall
1:      jmp     1b

text:   .ascii  "init has started\n"
text_end:

        .section .note.GNU-stack, "", @progbits
