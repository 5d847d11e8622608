// The KVM ioctls as functions: Swift cannot call a variadic ioctl or see its request macros.
// Each returns the ioctl's result, or -errno. Names follow Documentation/virt/kvm/api.rst.
#ifndef CKVM_H
#define CKVM_H

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#define CKVM_NO_ARGUMENT(name, request)                                                                               \
  static inline int name(int fd) {                                                                                    \
    int result = ioctl(fd, request, 0);                                                                               \
    return result < 0 ? -errno : result;                                                                              \
  }
#define CKVM_NUMBER(name, request)                                                                                    \
  static inline int name(int fd, unsigned long number) {                                                              \
    int result = ioctl(fd, request, number);                                                                          \
    return result < 0 ? -errno : result;                                                                              \
  }
#define CKVM_POINTER(name, request, type)                                                                             \
  static inline int name(int fd, type *argument) {                                                                    \
    int result = ioctl(fd, request, argument);                                                                        \
    return result < 0 ? -errno : result;                                                                              \
  }

// System ioctls (/dev/kvm).
CKVM_NO_ARGUMENT(ckvm_get_api_version, KVM_GET_API_VERSION)
CKVM_NO_ARGUMENT(ckvm_create_vm, KVM_CREATE_VM)
CKVM_NUMBER(ckvm_check_extension, KVM_CHECK_EXTENSION)
CKVM_NO_ARGUMENT(ckvm_get_vcpu_mmap_size, KVM_GET_VCPU_MMAP_SIZE)
CKVM_POINTER(ckvm_get_supported_cpuid, KVM_GET_SUPPORTED_CPUID, struct kvm_cpuid2)
CKVM_POINTER(ckvm_get_msr_index_list, KVM_GET_MSR_INDEX_LIST, struct kvm_msr_list)

// VM ioctls.
CKVM_NUMBER(ckvm_set_tss_addr, KVM_SET_TSS_ADDR)
CKVM_POINTER(ckvm_set_identity_map_addr, KVM_SET_IDENTITY_MAP_ADDR, uint64_t)
CKVM_NO_ARGUMENT(ckvm_create_irqchip, KVM_CREATE_IRQCHIP)
CKVM_POINTER(ckvm_get_irqchip, KVM_GET_IRQCHIP, struct kvm_irqchip)
CKVM_POINTER(ckvm_set_irqchip, KVM_SET_IRQCHIP, struct kvm_irqchip)
CKVM_POINTER(ckvm_create_pit2, KVM_CREATE_PIT2, struct kvm_pit_config)
CKVM_POINTER(ckvm_get_pit2, KVM_GET_PIT2, struct kvm_pit_state2)
CKVM_POINTER(ckvm_set_pit2, KVM_SET_PIT2, struct kvm_pit_state2)
CKVM_NUMBER(ckvm_create_vcpu, KVM_CREATE_VCPU)
CKVM_POINTER(ckvm_set_user_memory_region, KVM_SET_USER_MEMORY_REGION, struct kvm_userspace_memory_region)
CKVM_POINTER(ckvm_set_gsi_routing, KVM_SET_GSI_ROUTING, struct kvm_irq_routing)
CKVM_POINTER(ckvm_irqfd, KVM_IRQFD, struct kvm_irqfd)
CKVM_POINTER(ckvm_ioeventfd, KVM_IOEVENTFD, struct kvm_ioeventfd)

// vCPU ioctls.
CKVM_NO_ARGUMENT(ckvm_run, KVM_RUN)
CKVM_POINTER(ckvm_set_cpuid2, KVM_SET_CPUID2, struct kvm_cpuid2)
CKVM_POINTER(ckvm_get_regs, KVM_GET_REGS, struct kvm_regs)
CKVM_POINTER(ckvm_set_regs, KVM_SET_REGS, struct kvm_regs)
CKVM_POINTER(ckvm_get_sregs, KVM_GET_SREGS, struct kvm_sregs)
CKVM_POINTER(ckvm_set_sregs, KVM_SET_SREGS, struct kvm_sregs)
CKVM_POINTER(ckvm_get_fpu, KVM_GET_FPU, struct kvm_fpu)
CKVM_POINTER(ckvm_set_fpu, KVM_SET_FPU, struct kvm_fpu)
CKVM_POINTER(ckvm_get_xsave, KVM_GET_XSAVE, struct kvm_xsave)
CKVM_POINTER(ckvm_set_xsave, KVM_SET_XSAVE, struct kvm_xsave)
CKVM_POINTER(ckvm_get_xcrs, KVM_GET_XCRS, struct kvm_xcrs)
CKVM_POINTER(ckvm_set_xcrs, KVM_SET_XCRS, struct kvm_xcrs)
CKVM_POINTER(ckvm_get_debugregs, KVM_GET_DEBUGREGS, struct kvm_debugregs)
CKVM_POINTER(ckvm_set_debugregs, KVM_SET_DEBUGREGS, struct kvm_debugregs)
CKVM_POINTER(ckvm_get_lapic, KVM_GET_LAPIC, struct kvm_lapic_state)
CKVM_POINTER(ckvm_set_lapic, KVM_SET_LAPIC, struct kvm_lapic_state)
CKVM_POINTER(ckvm_get_mp_state, KVM_GET_MP_STATE, struct kvm_mp_state)
CKVM_POINTER(ckvm_set_mp_state, KVM_SET_MP_STATE, struct kvm_mp_state)
CKVM_POINTER(ckvm_get_vcpu_events, KVM_GET_VCPU_EVENTS, struct kvm_vcpu_events)
CKVM_POINTER(ckvm_set_vcpu_events, KVM_SET_VCPU_EVENTS, struct kvm_vcpu_events)
CKVM_POINTER(ckvm_get_msrs, KVM_GET_MSRS, struct kvm_msrs)
CKVM_POINTER(ckvm_set_msrs, KVM_SET_MSRS, struct kvm_msrs)
CKVM_POINTER(ckvm_translate, KVM_TRANSLATE, struct kvm_translation)

// Flexible array members, which Swift cannot reach.
static inline struct kvm_cpuid_entry2 *ckvm_cpuid_entries(struct kvm_cpuid2 *cpuid) { return cpuid->entries; }
static inline struct kvm_msr_entry *ckvm_msr_entries(struct kvm_msrs *msrs) { return msrs->entries; }
static inline uint32_t *ckvm_msr_indices(struct kvm_msr_list *list) { return list->indices; }
static inline struct kvm_irq_routing_entry *ckvm_routing_entries(struct kvm_irq_routing *routing) {
  return routing->entries;
}

// kvm_run's exit union, flattened.
struct ckvm_io {
  uint8_t direction;
  uint8_t size;
  uint16_t port;
  uint32_t count;
  void *data;
};
static inline struct ckvm_io ckvm_exit_io(struct kvm_run *run) {
  struct ckvm_io io = {run->io.direction, run->io.size, run->io.port, run->io.count,
                       (uint8_t *)run + run->io.data_offset};
  return io;
}
struct ckvm_mmio {
  uint64_t address;
  uint8_t *data;
  uint32_t length;
  uint8_t is_write;
};
static inline struct ckvm_mmio ckvm_exit_mmio(struct kvm_run *run) {
  struct ckvm_mmio mmio = {run->mmio.phys_addr, run->mmio.data, run->mmio.len, run->mmio.is_write};
  return mmio;
}
struct ckvm_internal_error {
  uint32_t suberror;
  uint8_t instruction_size;
  uint8_t instruction[15];
};
static inline struct ckvm_internal_error ckvm_exit_internal_error(struct kvm_run *run) {
  struct ckvm_internal_error error = {run->emulation_failure.suberror, 0, {0}};
  if (error.suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 1 &&
      (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
    uint8_t size = run->emulation_failure.insn_size;
    error.instruction_size = size <= 15 ? size : 15;
    memcpy(error.instruction, run->emulation_failure.insn_bytes, 15);
  }
  return error;
}
static inline uint64_t ckvm_exit_hardware_reason(struct kvm_run *run) {
  return run->fail_entry.hardware_entry_failure_reason;
}
static inline uint32_t ckvm_exit_system_event(struct kvm_run *run) { return run->system_event.type; }

static inline void ckvm_set_routing_irqchip(struct kvm_irq_routing_entry *entry, uint32_t gsi, uint32_t chip,
                                            uint32_t pin) {
  memset(entry, 0, sizeof *entry);
  entry->gsi = gsi;
  entry->type = KVM_IRQ_ROUTING_IRQCHIP;
  entry->u.irqchip.irqchip = chip;
  entry->u.irqchip.pin = pin;
}

static inline void ckvm_set_routing_msi(struct kvm_irq_routing_entry *entry, uint32_t gsi, uint64_t address,
                                        uint32_t data) {
  memset(entry, 0, sizeof *entry);
  entry->gsi = gsi;
  entry->type = KVM_IRQ_ROUTING_MSI;
  entry->u.msi.address_lo = (uint32_t)address;
  entry->u.msi.address_hi = (uint32_t)(address >> 32);
  entry->u.msi.data = data;
}

#endif
