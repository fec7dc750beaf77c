#!/bin/sh
# A signer command for gcemds on top of OpenSC's pkcs11-tool: a key in a PKCS#11 token, without gcemds-pkcs11.
# usage: pkcs11-tool.sh MODULE TOKEN ID PIN-FILE
set -u
module=$1 token=$2 id=$3
PIN=$(cat "$4") && export PIN # pkcs11-tool takes its name: the PIN is in nobody's list of processes

refuse() {
	printf '{"error":{"code":"%s","message":"%s"}}\n' "$1" "$2"
	exit
}
read -r question
case $question in
*'"op":"public"'*)
	key=$(pkcs11-tool --module "$module" --token-label "$token" --read-object --type pubkey --id "$id" 2>/dev/null | base64 -w0)
	[ -n "$key" ] || refuse misconfigured "no public key of that id"
	printf '{"public":"%s"}\n' "$key"
	;;
*'"alg":"RS256"'*)
	errors=$(mktemp) input=$(mktemp)
	# The token signs the DigestInfo of PKCS #1: 19 bytes that say SHA-256, and the digest. It is in a file, since of a pipe
	# pkcs11-tool takes what there is at the first look.
	{
		printf '\060\061\060\015\006\011\140\206\110\001\145\003\004\002\001\005\000\004\040'
		printf %s "$question" | sed 's/.*"digest":"\([^"]*\)".*/\1/' | base64 -d
	} >"$input"
	signature=$(pkcs11-tool --module "$module" --token-label "$token" --login --pin env:PIN \
		--sign --mechanism RSA-PKCS --id "$id" --input-file "$input" 2>"$errors" | base64 -w0)
	wrong=$(grep -c CKR_PIN "$errors")
	rm -f "$errors" "$input"
	[ "$wrong" = 0 ] || refuse denied "the PIN is wrong"
	[ -n "$signature" ] || refuse unavailable "pkcs11-tool did not sign"
	printf '{"signature":"%s"}\n' "$signature"
	;;
*) refuse unsupported "only public and RS256" ;;
esac
