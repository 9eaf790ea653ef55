"""What IPAMConfiguration means: cooldown, block limit, and settings that contradict each other. Pure."""

from datetime import timedelta

from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.pools import IPPool

DEFAULT_COOLDOWN = timedelta(seconds=30)
DEFAULT_BLOCK_LIMIT = 20  # Calico's, where maxBlocksPerHost is 0
_PLENTY = 16  # blocks
RECLAIM_AGE = timedelta(seconds=60)  # Calico's: an empty block is its claimant's for that long, whoever else needs one


def cooldown_of(config: IPAMConfiguration) -> timedelta:
    """How long an address rests before it is given again: what the object says, or calico-py's default."""
    if config.ip_cooldown_seconds is None:
        return DEFAULT_COOLDOWN
    return timedelta(seconds=config.ip_cooldown_seconds)


def may_press(config: IPAMConfiguration) -> bool:
    """Whether an address may be given before its cooldown is over if no other is left: not where a person set it."""
    return config.ip_cooldown_seconds is None


def block_limit_of(config: IPAMConfiguration) -> int:
    """How many blocks of a family a node may claim."""
    return config.max_blocks_per_host or DEFAULT_BLOCK_LIMIT


def may_claim_ahead(config: IPAMConfiguration, pool: IPPool, claimed: int) -> bool:
    """Whether a node may claim a block of the pool before an ADD needs it.

    Where blocks are plenty: other nodes must not have to borrow, or with strict affinity fail, for a node's speed.

    Args:
        config: the cluster's rules.
        pool: in which the block would be.
        claimed: how many of the pool's blocks have an affinity, or more.
    """
    blocks = 1 << (pool.block_size - pool.cidr.prefixlen)
    return config.auto_allocate_blocks and blocks - claimed >= max(_PLENTY, blocks // 2)


def config_problems(config: IPAMConfiguration) -> list[str]:
    """Settings that Calico refuses though the CRD's schema lets them pass, as sentences; calico-py obeys each."""
    found = []
    if not config.strict_affinity and not config.auto_allocate_blocks:
        found.append(
            "IPAMConfiguration default: spec.autoAllocateBlocks is false and so is spec.strictAffinity: a node without"
            " a block can only borrow; set spec.strictAffinity to true, or spec.autoAllocateBlocks to true"
        )
    if config.max_blocks_per_host and not config.strict_affinity:
        found.append(
            f"IPAMConfiguration default: spec.maxBlocksPerHost is {config.max_blocks_per_host}, spec.strictAffinity"
            " false: a node at the limit borrows; set spec.strictAffinity to true, or spec.maxBlocksPerHost to 0"
        )
    return found
