// Package s3server is a test server with the part of Amazon S3's API that the target uses, after the API reference
// (https://docs.aws.amazon.com/AmazonS3/latest/API/), with one bucket that is asked for by path. It checks the signature
// and the digest of each request, and refuses what it does not know.
package s3server

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // it is what the protocol has
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// What requests must be signed with. The key is made up.
const (
	Bucket    = "backups"
	KeyID     = "AKIATESTSERVER"
	SecretKey = "test-server-secret-key"

	region = "us-east-1"
	// pageSize is small, so that clients have to ask for further pages.
	pageSize = 2
	// MinPart is the least size of a part but the last, in bytes; the service has 5 MiB.
	MinPart = 1000
)

// A Fault is what becomes of a request.
type Fault int

// The faults.
const (
	None        Fault = iota
	Unavailable       // an answer with the status 503, and nothing is done
	Cut               // the connection ends in the middle of the request, and nothing is done
	CutAnswer         // the connection ends in the middle of an object
)

// A Server is one bucket. It may be used by several goroutines and processes at once.
type Server struct {
	URL string

	mu      sync.Mutex
	objects map[string]object
	uploads map[string]*upload
	began   int
	seen    int
	plan    func(operation string, n int) Fault
}

type object struct {
	content  []byte
	modified time.Time
}

type upload struct {
	key   string
	parts map[int][]byte
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{objects: map[string]object{}, uploads: map[string]*upload{}}
	h := httptest.NewServer(s)
	s.URL = h.URL
	t.Cleanup(h.Close)
	return s
}

// Set has plan decide about each of the following requests, which are counted from 1. Operations are called as in the
// API reference: "UploadPart". A nil plan lets them pass.
func (s *Server) Set(plan func(operation string, n int) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.plan = 0, plan
}

// Uploads returns how many uploads were begun, and neither completed nor aborted.
func (s *Server) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

func (s *Server) fault(operation string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	if s.plan == nil {
		return None
	}
	return s.plan(operation, s.seen)
}

// refuse answers with an error of the service.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	operation := operationOf(r, key)
	fault := s.fault(operation)
	switch fault {
	case Unavailable:
		_, _ = io.Copy(io.Discard, r.Body)
		refuse(w, 503, "SlowDown", "Please reduce your request rate.")
		return
	case Cut:
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // it was the client's connection
	}
	if code := authenticate(r, body); code != "" {
		refuse(w, 403, code, "The request was refused.")
		return
	}
	if bucket != Bucket {
		refuse(w, 404, "NoSuchBucket", "The specified bucket does not exist")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve(w, r, operation, key, body, fault == CutAnswer)
}

// operationOf returns what a request asks for; "" if that is not known.
func operationOf(r *http.Request, key string) string {
	q := r.URL.Query()
	q.Del("x-id") // the SDK's own, which says the operation
	var names []string
	for n := range q {
		names = append(names, n)
	}
	slices.Sort(names)
	switch r.Method + " " + strings.Join(names, ",") {
	case "PUT ":
		return "PutObject"
	case "GET ":
		return "GetObject"
	case "DELETE ":
		return "DeleteObject"
	case "POST uploads":
		return "CreateMultipartUpload"
	case "PUT partNumber,uploadId":
		return "UploadPart"
	case "POST uploadId":
		return "CompleteMultipartUpload"
	case "DELETE uploadId":
		return "AbortMultipartUpload"
	case "GET list-type", "GET list-type,prefix", "GET continuation-token,list-type", "GET continuation-token,list-type,prefix":
		if key == "" && q.Get("list-type") == "2" {
			return "ListObjectsV2"
		}
	}
	return ""
}

var credential = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/]+)/[0-9]{8}/` + region + `/s3/aws4_request, SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$`)

// authenticate makes the signature once more and compares, and returns the code of the error.
func authenticate(r *http.Request, body []byte) string {
	got := r.Header.Get("Authorization")
	m := credential.FindStringSubmatch(got)
	if m == nil {
		return "AccessDenied"
	}
	if m[1] != KeyID {
		return "InvalidAccessKeyId"
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return "AccessDenied"
	}
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "http://"+r.Host+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return "InvalidRequest"
	}
	for name := range strings.SplitSeq(m[2], ";") {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	if r.Header.Get("X-Amz-Content-Sha256") != digest {
		return "XAmzContentSHA256Mismatch"
	}
	err = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).
		SignHTTP(context.Background(), aws.Credentials{AccessKeyID: KeyID, SecretAccessKey: SecretKey}, again, digest, "s3", region, at)
	if err != nil || again.Header.Get("Authorization") != got {
		return "SignatureDoesNotMatch"
	}
	return ""
}

func etag(content []byte) string {
	sum := md5.Sum(content) //nolint:gosec // see the import
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// serve does what is asked. s.mu is held.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, operation, key string, body []byte, cut bool) {
	if operation == "PutObject" || operation == "UploadPart" {
		sum := md5.Sum(body) //nolint:gosec // see the import
		if r.Header.Get("Content-MD5") != base64.StdEncoding.EncodeToString(sum[:]) {
			refuse(w, 400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
			return
		}
		w.Header().Set("ETag", etag(body))
	}
	id := r.URL.Query().Get("uploadId")
	up := s.uploads[id]
	if id != "" && (up == nil || up.key != key) {
		refuse(w, 404, "NoSuchUpload", "The specified multipart upload does not exist.")
		return
	}
	switch operation {
	case "PutObject":
		s.objects[key] = object{body, time.Now()}
	case "GetObject":
		s.get(w, r, key, cut)
	case "DeleteObject":
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case "CreateMultipartUpload":
		s.began++
		id := fmt.Sprintf("upload+%d", s.began)
		s.uploads[id] = &upload{key, map[int][]byte{}}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", Bucket, key, id)
	case "UploadPart":
		n, err := strconv.Atoi(r.URL.Query().Get("partNumber"))
		if err != nil || n < 1 || n > 10000 {
			refuse(w, 400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
			return
		}
		up.parts[n] = body
	case "CompleteMultipartUpload":
		s.complete(w, id, up, body)
	case "AbortMultipartUpload":
		delete(s.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case "ListObjectsV2":
		s.list(w, r)
	default:
		refuse(w, 501, "NotImplemented", "The test server does not know "+r.Method+" "+r.URL.RawQuery)
	}
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, key string, cut bool) {
	o, ok := s.objects[key]
	if !ok {
		refuse(w, 404, "NoSuchKey", "The specified key does not exist.")
		return
	}
	if want := r.Header.Get("If-Match"); want != "" && want != etag(o.content) {
		refuse(w, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		return
	}
	from := 0
	w.Header().Set("ETag", etag(o.content))
	if text := r.Header.Get("Range"); text != "" {
		if _, err := fmt.Sscanf(text, "bytes=%d-", &from); err != nil || from >= len(o.content) {
			refuse(w, 416, "InvalidRange", "The requested range is not satisfiable")
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(o.content)-1, len(o.content)))
	}
	rest := o.content[from:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if cut {
		_, _ = w.Write(rest[:len(rest)/2])
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(rest)
}

func (s *Server) complete(w http.ResponseWriter, id string, up *upload, body []byte) {
	var asked struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &asked); err != nil || len(asked.Part) == 0 {
		refuse(w, 400, "MalformedXML", "The XML you provided was not well-formed")
		return
	}
	var whole []byte
	for i, p := range asked.Part {
		content, ok := up.parts[p.PartNumber]
		switch {
		case !ok || p.ETag != etag(content):
			refuse(w, 400, "InvalidPart", "One or more of the specified parts could not be found.")
			return
		case i > 0 && p.PartNumber <= asked.Part[i-1].PartNumber:
			refuse(w, 400, "InvalidPartOrder", "The list of parts was not in ascending order.")
			return
		case i < len(asked.Part)-1 && len(content) < MinPart:
			refuse(w, 400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed object size.")
			return
		}
		whole = append(whole, content...)
	}
	s.objects[up.key] = object{whole, time.Now()}
	delete(s.uploads, id)
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><ETag>%s-%d</ETag></CompleteMultipartUploadResult>", Bucket, up.key, strings.Trim(etag(whole), `"`), len(asked.Part))
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	type content struct {
		Key          string
		LastModified string
		Size         int
	}
	var answer struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []content
	}
	var keys []string
	for k := range s.objects {
		if strings.HasPrefix(k, r.URL.Query().Get("prefix")) && k > r.URL.Query().Get("continuation-token") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if len(keys) > pageSize {
		keys = keys[:pageSize]
		answer.IsTruncated, answer.NextContinuationToken = true, keys[pageSize-1]
	}
	for _, k := range keys {
		o := s.objects[k]
		answer.Contents = append(answer.Contents, content{k, o.modified.UTC().Format(time.RFC3339), len(o.content)})
	}
	_ = xml.NewEncoder(w).Encode(answer) // a client that is gone needs no answer
}
