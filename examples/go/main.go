// Command go prints the project and how long its access token is good.
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/compute/metadata"
)

func main() {
	ctx := context.Background()
	project, err := metadata.ProjectIDWithContext(ctx)
	if err != nil {
		log.Fatal(err)
	}
	found, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}})
	if err != nil {
		log.Fatal(err)
	}
	token, err := found.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: a token, good for %v\n", project, time.Until(token.Expiry).Round(time.Minute))
}
