declare module 'proxy-addr' {
  /** @throws TypeError when an entry is neither an address, a subnet nor a name such as `loopback` */
  export function compile(subnets: readonly string[]): (address: string) => boolean;
}
