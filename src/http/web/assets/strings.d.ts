/** For the server, which fills the page with the English words. */
export const STRINGS: Readonly<Record<string, readonly [zh: string, en: string]>>;
