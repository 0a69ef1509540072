/** Who asks, and what of all that is stored is open to them. */
export interface Access {
  /** To whom belongs what they make; null: to nobody, as where the server asks for no keys. */
  readonly owner: string | null;
  /** Whether everything is open to them, whoever it belongs to. */
  readonly all: boolean;
}

/** Of a server that asks for no keys, and of whoever works on the database itself. */
export const UNRESTRICTED: Access = { owner: null, all: true };

/** What belongs to nobody was made without keys; where keys are asked for, only those to whom all is open have it. */
export function mayUse({ owner, all }: Access, whose: string | null): boolean {
  return all || (owner !== null && owner === whose);
}

/** The owner whose things alone are open; null: everybody's are. */
export function ownerOnly({ owner, all }: Access): string | null {
  // A stranger has nothing, and nobody has the empty name.
  return all ? null : (owner ?? '');
}
