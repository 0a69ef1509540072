/** What a caller may see and change. */
export interface Access {
  /** Owner of what this caller creates; null when authentication is off. */
  readonly owner: string | null;
  /** Whether the caller has access to all owners. */
  readonly unrestricted: boolean;
}

/** Without authentication, and for the command line. */
export const UNRESTRICTED: Access = { owner: null, unrestricted: true };

/** Records without an owner were created without authentication; only unrestricted callers have access. */
export function canAccess({ owner, unrestricted }: Access, whose: string | null): boolean {
  return unrestricted || (owner !== null && owner === whose);
}

/** The owner to filter by; null: all owners. */
export function ownerFilter({ owner, unrestricted }: Access): string | null {
  // No owner has the empty name, so an unauthenticated caller matches nothing.
  return unrestricted ? null : (owner ?? '');
}
