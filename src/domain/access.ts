/** Who asks, and what of all that is stored is open to them. */
export interface Access {
  /** To whom belongs what they make; null: to nobody, as where the server asks for no keys. */
  readonly owner: string | null;
  /** Whether everything is open to them, whoever it belongs to. */
  readonly unrestricted: boolean;
}

/** Of a server that asks for no keys, and of whoever works on the database itself. */
export const UNRESTRICTED: Access = { owner: null, unrestricted: true };

/** What belongs to nobody was made without keys; where keys are asked for, only those to whom all is open have it. */
export function canAccess({ owner, unrestricted }: Access, whose: string | null): boolean {
  return unrestricted || (owner !== null && owner === whose);
}

/** The owner whose things alone are open; null: everybody's are. */
export function ownerFilter({ owner, unrestricted }: Access): string | null {
  // A stranger has nothing, and nobody has the empty name.
  return unrestricted ? null : (owner ?? '');
}
