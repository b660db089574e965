/** Fields of objects that serve as tables, whatever their names are. */

/** Sets a field of the object itself. Plain assignment to `__proto__` would set a prototype instead. */
export function setOwn<T>(record: Record<string, T>, name: string, value: T): void {
  if (name !== '__proto__') record[name] = value
  else Object.defineProperty(record, name, { value, enumerable: true, configurable: true, writable: true })
}
