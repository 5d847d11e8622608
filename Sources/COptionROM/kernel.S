// An option ROM that starts a kernel: a boot entry (BEV, Plug and Play BIOS Specification 1.0A, 3.3) that has the fw_cfg
// device put the kernel into memory. A bzImage, its command line and its ramdisk are items of their own; it is started at its
// 16-bit entry (Linux, Documentation/arch/x86/boot.rst, "Running the kernel"), the header in the setup code being filled in
// already. Any other kernel is a list of loads, and a state to begin in: FirmwareKernel in Boards.
// Sizes and checksums are left to who takes this image.

  // fw_cfg items, of which each has an address, a size and data.
  .set KERNEL_ADDRESS, 0x07
  .set KERNEL_SIZE, 0x08
  .set RAMDISK_ADDRESS, 0x0A
  .set RAMDISK_SIZE, 0x0B
  .set KERNEL_DATA, 0x11
  .set RAMDISK_DATA, 0x12
  .set COMMAND_LINE_ADDRESS, 0x13
  .set COMMAND_LINE_SIZE, 0x14
  .set COMMAND_LINE_DATA, 0x15
  .set SETUP_ADDRESS, 0x16
  .set SETUP_SIZE, 0x17
  .set SETUP_DATA, 0x18
  // Numbers that QEMU has no items for.
  .set START, 0x1A
  .set LOADS, 0x1B
  .set LOAD_DATA, 0x1C

  .set FW_CFG_DMA, 0x514
  .set DMA_ERROR, 1
  .set DMA_READ, 2
  .set DMA_SELECT, 8

  // The stack, and above it what the device reads and writes, below what a kernel is given: LowMemory in Boards. The ROM
  // itself may be write-protected by now.
  .set STACK, 0x3000
  .set DESCRIPTOR, 0x3000
  .set VALUE, 0x3010
  // End of the RAM that firmware leaves below 4 GiB.
  .set MEMORY, 0x3014
  // What START holds.
  .set PLAN, 0x3020
  .set PLAN_ENTRY, PLAN                 // 8 bytes
  .set PLAN_COUNT, PLAN + 8             // of loads
  .set PLAN_PAGE_TABLES, PLAN + 12      // 0: 32-bit protected mode
  .set PLAN_EAX, PLAN + 16
  .set PLAN_EBX, PLAN + 20
  .set PLAN_ESI, PLAN + 24
  .set PLAN_GDTR, PLAN + 28             // limit, base
  .set PLAN_SIZE, 34
  // Address and size of each load.
  .set TABLE, 0x3080
  .set CODE_SELECTOR, 0x10
  .set DATA_SELECTOR, 0x18
  // What the setup code's header says of its heap: HeapEnd in Boards.
  .set HEAP_END, 0xE000

  .section .rodata
  .code16
  .globl vmrun_kernel_rom_start
  .globl vmrun_kernel_rom_end
vmrun_kernel_rom_start:
  .byte 0x55, 0xAA
  .byte 0                       // size in units of 512 bytes
  // Initialization: an IPL device is attached (AX bits 5:4).
  movw $0x20, %ax
  lretw

  .org vmrun_kernel_rom_start + 0x18
  .word 0                       // no PCI data structure
  .word plug_and_play - vmrun_kernel_rom_start

  .balign 16
plug_and_play:
  .ascii "$PnP"
  .byte 1, 2                    // revision, length in units of 16 bytes
  .word 0                       // no further header
  .byte 0, 0                    // checksum
  .long 0                       // no device identifier
  .word manufacturer - vmrun_kernel_rom_start
  .word product - vmrun_kernel_rom_start
  .byte 0, 0x80, 1              // mass storage, other (interface, sub-type, base type)
  .byte 0x14                    // an IPL device, not needed for boot of others
  .word 0, 0                    // no boot connection, no disconnect vector
  .word boot - vmrun_kernel_rom_start
  .word 0, 0

manufacturer: .asciz "vmrun"
product: .asciz "kernel of --kernel"

boot:
  cli
  cld
  xorw %ax, %ax
  movw %ax, %ss
  movw $STACK, %sp
  movw %ax, %es
  movw %cs, %ax
  movw %ax, %ds

  // INT 15h AX=E801h: KiB from 1 to 16 MiB, and units of 64 KiB above, twice; firmware's own tables are not counted.
  movw $0xE801, %ax
  xorw %cx, %cx
  xorw %dx, %dx
  int $0x15
  movw $(no_memory - vmrun_kernel_rom_start), %si
  jc fail
  testw %cx, %cx
  jnz 1f
  testw %dx, %dx
  jnz 1f
  movw %ax, %cx
  movw %bx, %dx
1:
  movzwl %dx, %edx
  shll $16, %edx
  jz 2f
  addl $0x1000000, %edx
  jmp 3f
2:
  movzwl %cx, %edx
  shll $10, %edx
  addl $0x100000, %edx
3:
  movl %edx, %es:MEMORY

  movb $SETUP_SIZE, %al
  call number
  testl %eax, %eax
  jz run_plan
  movw $(SETUP_ADDRESS << 8 | SETUP_SIZE), %bx
  movb $SETUP_DATA, %cl
  call load
  movw $(COMMAND_LINE_ADDRESS << 8 | COMMAND_LINE_SIZE), %bx
  movb $COMMAND_LINE_DATA, %cl
  call load
  movw $(KERNEL_ADDRESS << 8 | KERNEL_SIZE), %bx
  movb $KERNEL_DATA, %cl
  call load
  movw $(RAMDISK_ADDRESS << 8 | RAMDISK_SIZE), %bx
  movb $RAMDISK_DATA, %cl
  call load

  // All segments are the setup code's, which begins behind its first sector.
  movb $SETUP_ADDRESS, %al
  call number
  shrl $4, %eax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %fs
  movw %ax, %gs
  movw %ax, %ss
  movl $HEAP_END, %esp
  addw $0x20, %ax
  pushw %ax
  pushw $0
  lretw

// Loads data of the item CL to where the item BH says, as many bytes as the item BL says.
load:
  movb %bl, %al
  call number
  testl %eax, %eax
  jz 1f
  movl %eax, %ebp
  movb %bh, %al
  call number
  movl %eax, %edi
  movl %ebp, %edx
  call check
  movb %cl, %al
  movl %ebp, %edx
  jmp read
1:
  ret

// EDX bytes at EDI must be in memory. EAX and SI change.
check:
  movl %edi, %eax
  movw $(no_memory - vmrun_kernel_rom_start), %si
  addl %edx, %eax
  jc fail
  cmpl %es:MEMORY, %eax
  ja fail
  ret

// EAX: the number that the item AL is. EDX and EDI change.
number:
  movl $4, %edx
  movl $VALUE, %edi
  call read
  movl %es:VALUE, %eax
  ret

// Reads EDX bytes of the item AL to physical address EDI. EAX and EDX change.
read:
  movzbl %al, %eax
  shll $16, %eax
  orb $(DMA_SELECT | DMA_READ), %al
// The same with the control field in EAX.
transfer:
  bswapl %eax
  movl %eax, %es:DESCRIPTOR
  bswapl %edx
  movl %edx, %es:DESCRIPTOR + 4
  xorl %eax, %eax
  movl %eax, %es:DESCRIPTOR + 8
  movl %edi, %edx
  bswapl %edx
  movl %edx, %es:DESCRIPTOR + 12
  movw $FW_CFG_DMA, %dx
  outl %eax, %dx
  movl $DESCRIPTOR, %eax
  bswapl %eax
  addw $4, %dx
  outl %eax, %dx
1:
  movl %es:DESCRIPTOR, %eax
  bswapl %eax
  testl %eax, %eax
  jz 2f
  movw $(no_data - vmrun_kernel_rom_start), %si
  testb $DMA_ERROR, %al
  jnz fail
  jmp 1b
2:
  ret

// Carries out the plan.
run_plan:
  movb $START, %al
  movl $PLAN_SIZE, %edx
  movl $PLAN, %edi
  call read
  movb $LOADS, %al
  movl %es:PLAN_COUNT, %ecx
  leal (,%ecx,8), %edx
  movl $TABLE, %edi
  call read
  movl $(LOAD_DATA << 16 | DMA_SELECT), %eax
  xorl %edx, %edx
  call transfer
  movw $TABLE, %bx
1:
  movl %es:(%bx), %edi
  movl %es:4(%bx), %edx
  call check
  movl $DMA_READ, %eax
  call transfer
  addw $8, %bx
  decl %ecx
  jnz 1b

  // A far return to where this continues in the new mode, by the kernel's descriptors.
  xorl %ebp, %ebp
  movw %cs, %bp
  shll $4, %ebp
  pushl $CODE_SELECTOR
  movl %es:PLAN_PAGE_TABLES, %edx
  testl %edx, %edx
  jnz 2f
  addl $(protected - vmrun_kernel_rom_start), %ebp
  pushl %ebp
  lgdtl %es:PLAN_GDTR
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  lretl
2:
  addl $(long - vmrun_kernel_rom_start), %ebp
  pushl %ebp
  movl %edx, %cr3
  movl %cr4, %eax
  orb $0x20, %al                // PAE
  movl %eax, %cr4
  movl $0xC0000080, %ecx        // IA32_EFER
  rdmsr
  orw $0x100, %ax               // LME
  wrmsr
  lgdtl %es:PLAN_GDTR
  movl %cr0, %eax
  orl $0x80000001, %eax         // PG and PE
  movl %eax, %cr0
  lretl

.macro ENTER
  movl $DATA_SELECTOR, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %fs
  movl %eax, %gs
  movl %eax, %ss
  movl PLAN_EAX, %eax
  movl PLAN_EBX, %ebx
  movl PLAN_ESI, %esi
  xorl %ecx, %ecx
  xorl %edx, %edx
  xorl %edi, %edi
  xorl %ebp, %ebp
  jmp *PLAN_ENTRY
.endm

  .code32
protected:
  ENTER
  .code64
long:
  ENTER
  .code16

// Says DS:SI on the screen, and stops: the next boot entry is not what was asked for.
fail:
  lodsb
  testb %al, %al
  jz 1f
  movb $0x0E, %ah
  movw $0x0007, %bx
  int $0x10
  jmp fail
1:
  cli
  hlt
  jmp 1b

no_memory: .asciz "\r\nvmrun: firmware leaves too little memory for the kernel; give the guest more\r\n"
no_data: .asciz "\r\nvmrun: the kernel or its initial ramdisk cannot be read\r\n"
vmrun_kernel_rom_end:

  .section .note.GNU-stack, "", @progbits
